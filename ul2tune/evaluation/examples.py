"""The finite set of examples an evaluation runs over, read from prepared data without TensorFlow.

Everything comes from the manifests and shards that `ul2tune prepare` wrote: token ids of the
prompts, raw references, answer choices and names (`ul2tune.instructions.records.FIELD_NAMES`).
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ul2tune.data import manifest, vocab
from ul2tune.data.codec import Example
from ul2tune.data.ul2_config import UL2Config
from ul2tune.data.vocab import Vocabulary
from ul2tune.evaluation.tokens import Tokenizer, spelled_frame, until, words
from ul2tune.feed.store import Readers, Store
from ul2tune.instructions.reading import strings
from ul2tune.instructions.records import Query
from ul2tune.instructions.superni import split_hash
from ul2tune.metrics.references import References
from ul2tune.metrics.reply_frame import ReplyFrame

# Fields of prepared examples that are copied as they are; a SeqIO task's own may be of any type.
_TEXTS = ("category", "cluster", "template_id", "benchmark", "split_level")
_LISTS = ("answer_choices", "metric_names", "demo_ids")


@dataclass(frozen=True, kw_only=True)
class EvalExample:
    """One prompt with what its prediction is compared to.

    Attributes:
      task, id: its name; together unique in the set.
      category, cluster: the task's, or empty.
      inputs_S: int32 ids of the prompt, end of sequence included where the task has one.
      inputs_text: the prompt in words, as the model sees it: of a prompt that is too long, the
        words of `inputs_S`.
      references: acceptable answers, at least one (`metrics.references.References` where a metric
        needs more).
      answer_choices: what rank classification ranks; empty = nothing.
      choice_ids: int32 ids of what is scored for each: the choice, or the target of its query;
        ended as the task's targets are.
      queries: where every choice has a prompt of its own, one per choice (`records.Query`). Such an
        example is not answered by generation; `inputs_S` may even show the answer.
      query_ids: int32 ids of the queries' prompts.
      prior_ids: int32 ids of their prompts that say nothing; empty = no query has one.
      metric_names: the scores its collection reports, the headline first; may be empty.
      template_id: which template made the prompt; empty = the only one.
      record_task: what the collection calls it; tasks that differ in the prompt alone share it.
      demo_ids: demos in the prompt.
      benchmark, split_level: the record's, see `records.Record`.
      seed: of the rendering, which may have drawn the demos.
      baselines: predictions that need no model, by name.
      truncated: the prompt was cut, or demos left out, by its renderer for a token budget; or it
        was cut here to the length.
      reply_frame: what the task has the model write around an answer, as the vocabulary spells it.
      stop_id: the token that frame ends answers with; None = only the end of sequence does.
    """

    task: str
    id: str
    category: str
    inputs_S: np.ndarray
    inputs_text: str
    references: tuple[str, ...]
    answer_choices: tuple[str, ...] = ()
    choice_ids: tuple[np.ndarray, ...] = ()
    queries: tuple[Query, ...] = ()
    query_ids: tuple[np.ndarray, ...] = ()
    prior_ids: tuple[np.ndarray, ...] = ()
    cluster: str = ""
    template_id: str = ""
    record_task: str = ""
    metric_names: tuple[str, ...] = ()
    demo_ids: tuple[str, ...] = ()
    benchmark: str = ""
    split_level: str = ""
    seed: str = ""
    baselines: Mapping[str, str] | None = None
    truncated: bool = False
    reply_frame: ReplyFrame = field(default_factory=ReplyFrame)
    stop_id: int | None = None

    @property
    def name(self) -> str:
        """Keys the randomness of this example's generation."""
        return f"{self.task}/{self.id}"

    def said(self, vocabulary: Vocabulary, ids: Sequence[int]) -> str:
        """The answer in generated ids."""
        return self.reply_frame.content(vocabulary.decode(until(ids, self.stop_id)))

    @property
    def first_difference(self) -> int | None:
        """The position at which one token tells all answer choices apart; None if there is none.

        Before it all choices are the same: nothing, or the space before a letter in a vocabulary
        that has no piece for both.
        """
        shortest = min((len(ids) for ids in self.choice_ids), default=0)
        for position in range(shortest):
            tokens = {int(ids[position]) for ids in self.choice_ids}
            if len(tokens) > 1:
                return position if len(tokens) == len(self.choice_ids) else None
        return None


@dataclass(frozen=True, kw_only=True)
class EvalSet:
    """All examples of a mixture's split, in the order of the manifests.

    Attributes:
      examples: tasks one after the other.
      vocabulary: of the prepared data.
      metric_functions: dotted names by task, from the manifests.
      fingerprints: of each task's prepared data.
      split_hash: of the names of all examples, in order.
      split_hashes: of the ids of each task's examples, in order.
    """

    examples: tuple[EvalExample, ...]
    vocabulary: Vocabulary
    metric_functions: Mapping[str, tuple[str, ...]]
    fingerprints: Mapping[str, str]
    split_hash: str
    split_hashes: Mapping[str, str] = field(default_factory=dict)


def load(
    mixture: str,
    data_dir: str,
    *,
    split: str,
    inputs_length: int,
    max_examples_per_task: int | None = None,
) -> EvalSet:
    """Reads the examples of a prepared mixture or task, of all its tasks as SeqIO's Evaluator does:
    those that are never drawn have them too, unless they hold running text.

    Args:
      mixture: its name.
      data_dir: where `ul2tune prepare` wrote it.
      split: SeqIO split.
      inputs_length: longer prompts are cut from the right. The end of sequence is kept where
        training keeps it (`append_eos_after_trim`), and else lost.
      max_examples_per_task: the first so many of each task; None = all.

    Raises:
      FileNotFoundError: if the mixture or a split of it is not prepared.
      ValueError: if tasks disagree on the vocabulary, hold raw text for denoising instead of
        prompts, two examples have one name, one has no references, or there is no example at all.
    """
    prepared = manifest.read_mixture(data_dir, mixture)
    tasks = prepared.all_tasks
    try:
        entries = [manifest.read_task(data_dir, task, split) for task in tasks]
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{error} {_prepared_splits(tasks, data_dir)}") from error
    manifests = {e.task: e for e in entries if e.task in prepared.tasks or _has_prompts(e)}
    examples: list[EvalExample] = []
    with contextlib.closing(Readers()) as readers:
        for entry in manifests.values():
            _check_prompts(entry)
            vocabulary = vocab.load(entry.vocabulary, root=data_dir)
            store = Store(data_dir, entry, readers)
            count = min(len(store), max_examples_per_task or len(store))
            rows = store.read(np.arange(count))
            examples += [
                _example(row, index, entry, vocabulary, inputs_length)
                for index, row in enumerate(rows)
            ]
    names = [example.name for example in examples]
    ids: dict[str, list[str]] = {}
    for example in examples:
        ids.setdefault(example.task, []).append(example.id)
    if not names:
        raise ValueError(
            f"Split {split!r} of {mixture!r} has no examples to evaluate. "
            f"{_prepared_splits(tasks, data_dir)}"
        )
    _check_names(names, mixture)
    return EvalSet(
        examples=tuple(examples),
        vocabulary=_one_vocabulary(list(manifests.values()), data_dir),
        metric_functions={task: entry.metrics for task, entry in manifests.items()},
        fingerprints={task: entry.fingerprint for task, entry in manifests.items()},
        split_hash=split_hash(names),
        split_hashes={task: split_hash(found) for task, found in ids.items()},
    )


def vocabulary_of(mixture: str, data_dir: str) -> Vocabulary:
    """The vocabulary a mixture was prepared with, for use without its examples.

    Raises:
      FileNotFoundError: if the mixture is not prepared.
      ValueError: if its tasks have several vocabularies.
    """
    return _one_vocabulary(_any_splits(mixture, data_dir), data_dir)


def prompts_end_with_eos(mixture: str, data_dir: str, override: bool | None = None) -> bool:
    """Whether the tasks of a mixture end their inputs with the end of sequence, as T5's do; those
    of decoder-only models usually end the targets alone.

    Args:
      mixture: its name.
      data_dir: where it was prepared.
      override: the answer, if it is known; then nothing is read.

    Raises:
      FileNotFoundError: if the mixture is not prepared.
      ValueError: if its tasks differ.
    """
    if override is not None:
        return override
    endings: dict[bool, str] = {}
    with contextlib.closing(Readers()) as readers:
        for entry in _any_splits(mixture, data_dir):
            if entry.online is not None:
                config = UL2Config.from_json(entry.online["config"])
                ended = config.inputs_eos and not config.is_causal
            elif "inputs" not in entry.features:
                ended = False
            elif entry.features["inputs"].get("add_eos") or not entry.num_examples:
                ended = bool(entry.features["inputs"].get("add_eos"))
            else:
                eos_id = vocab.load(entry.vocabulary, root=data_dir).info.eos_id
                row = Store(data_dir, entry, readers).read(np.arange(1))[0]
                ended = row.arrays["inputs"].tolist()[-1:] == [eos_id]
            endings.setdefault(ended, entry.task)
    if len(endings) > 1:
        raise ValueError(
            f"Of {mixture!r}, {endings[True]!r} ends its inputs with the end of sequence and "
            f"{endings[False]!r} does not. Set INFER_APPEND_EOS to True or False."
        )
    return True in endings


def _any_splits(mixture: str, data_dir: str) -> list[manifest.TaskManifest]:
    """Whatever is prepared of a mixture: all splits of a task are made alike."""
    entries = [
        manifest.read_task(data_dir, task, path.parent.name)
        for task in manifest.read_mixture(data_dir, mixture).tasks
        for path in sorted((Path(data_dir) / task).glob("*/manifest.json"))
    ]
    if not entries:
        raise FileNotFoundError(
            f"No split of {mixture!r} is prepared in {data_dir}. Run `ul2tune prepare` for it."
        )
    return entries


def _example(
    row: Example,
    index: int,
    entry: manifest.TaskManifest,
    vocabulary: Vocabulary,
    inputs_length: int,
) -> EvalExample:
    fields: Mapping[str, Any] = row.fields
    tokenizer = Tokenizer.like(row, entry, vocabulary, inputs_length)
    ids = row.arrays["inputs"].tolist()
    body = ids[:-1] if ids[-1:] == [vocabulary.info.eos_id] else ids
    inputs_S, truncated = tokenizer.prompt(body)
    where = f"Example {fields.get('id', index)!r} of task {entry.task!r}"
    lists = {name: strings(fields.get(name) or (), where, name) for name in _LISTS}
    choices = lists["answer_choices"]
    queries = tuple(Query(**query) for query in json.loads(fields.get("queries") or "[]"))
    query_ids, queries_cut = tokenizer.prompts([query.inputs for query in queries])
    prior_ids, _ = tokenizer.prompts([query.prior for query in queries if query.prior])
    whole = fields.get("inputs_text") or words(body, vocabulary)
    references = fields.get("targets_text") or vocabulary.decode(row.arrays["targets"])
    if not references and fields.get("targets_text") == []:
        raise ValueError(
            f"{where} has no references: its targets_text and its target are empty. Leave it out "
            f"of the task."
        )
    texts = {name: fields.get(name, "") for name in _TEXTS}
    frame, stop_id = spelled_frame(fields.get("metric_context", ""), vocabulary)
    return EvalExample(
        **texts,
        seed=fields.get("render_seed", ""),
        task=entry.task,
        id=str(fields.get("id", index)),
        record_task=fields.get("task", ""),
        metric_names=lists["metric_names"],
        inputs_S=inputs_S,
        inputs_text=words(inputs_S.tolist(), vocabulary) if truncated else whole,
        references=References(
            (references,)
            if isinstance(references, str)
            else strings(references, where, "targets_text"),
            fields.get("metric_context", ""),
        ),
        answer_choices=choices,
        choice_ids=tokenizer.targets([query.targets for query in queries] or choices),
        queries=queries,
        query_ids=query_ids,
        prior_ids=prior_ids,
        demo_ids=lists["demo_ids"],
        baselines=_baselines(fields) or None,
        truncated=bool(fields.get("truncated")) or (queries_cut if queries else truncated),
        reply_frame=frame,
        stop_id=stop_id,
    )


def _baselines(fields: Mapping[str, Any]) -> dict[str, str]:
    """What the copy baselines predict, for the same examples as the model: an empty text counts.

    Without demos there is none to copy: the field of that baseline is empty, and left out here.
    """
    found = {name: fields[name] for name in ("copy_input", "copy_demo") if name in fields}
    if not found.get("copy_demo") and not fields.get("demo_ids"):
        found.pop("copy_demo", None)
    return found


def _has_prompts(entry: manifest.TaskManifest) -> bool:
    return entry.num_examples > 0 and entry.online is None and "inputs" in entry.features


def _check_prompts(entry: manifest.TaskManifest) -> None:
    if entry.online is not None or "inputs" not in entry.features:
        raise ValueError(
            f"Task {entry.task!r} holds raw text for denoising, not prompts with references; it "
            f"can be trained on but not evaluated by generation. Name an instruction mixture."
        )


def _one_vocabulary(entries: Sequence[manifest.TaskManifest], data_dir: str) -> Vocabulary:
    prints = {entry.vocabulary["fingerprint"]: entry.task for entry in entries}
    if len(prints) > 1:
        raise ValueError(
            f"Tasks {sorted(prints.values())} were prepared with different vocabularies; a model "
            f"has one. Prepare them again with the same."
        )
    return vocab.load(entries[0].vocabulary, root=data_dir)


def _prepared_splits(tasks: Sequence[str], data_dir: str) -> str:
    """A sentence about the splits of some tasks that could be evaluated."""
    found = sorted(
        {
            path.parent.name
            for task in tasks
            for path in (Path(data_dir) / task).glob("*/manifest.json")
            if _has_examples(task, data_dir, path.parent.name)
        }
    )
    return f"EVAL_SPLIT names it; prepared with examples: {', '.join(map(repr, found)) or 'none'}."


def _has_examples(task: str, data_dir: str, split: str) -> bool:
    try:
        return manifest.read_task(data_dir, task, split).num_examples > 0
    except ValueError:  # damaged or of another version: not the split that was asked for
        return False


def _check_names(names: Sequence[str], mixture: str) -> None:
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise ValueError(f"Two examples of {mixture!r} are called {name!r}; ids must differ.")
        seen.add(name)
