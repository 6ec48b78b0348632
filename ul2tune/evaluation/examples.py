"""The finite set of examples an evaluation runs over, read from prepared data without TensorFlow.

Everything comes from the manifests and shards that `ul2tune prepare` wrote: token ids of the
prompts, raw references, answer choices and names (`ul2tune.instructions.records.FIELD_NAMES`).
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ul2tune.data import manifest
from ul2tune.data.codec import Example
from ul2tune.data.vocab import Vocabulary
from ul2tune.evaluation import seqio_example, splits
from ul2tune.evaluation.eval_set import EvalExample, EvalSet
from ul2tune.evaluation.tokens import Tokenizer, spelled_frame, words
from ul2tune.feed.store import Readers, Store
from ul2tune.instructions.reading import strings
from ul2tune.instructions.records import Query
from ul2tune.instructions.superni import split_hash
from ul2tune.metrics.references import References

# Fields of prepared examples that are copied as they are; a SeqIO task's own may be of any type.
_TEXTS = ("task", "category", "cluster", "template_id", "benchmark", "split_level", "render_seed")
_LISTS = ("answer_choices", "metric_names", "demo_ids")
_FEATURES = frozenset({"inputs", "targets"})


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
        raise FileNotFoundError(f"{error} {splits.with_examples(tasks, data_dir)}") from error
    manifests = {e.task: e for e in entries if e.task in prepared.tasks or _has_prompts(e)}
    examples: list[EvalExample] = []
    for entry in manifests.values():
        _check_prompts(entry)
    vocabulary = splits.one_vocabulary(list(manifests.values()), data_dir)
    with contextlib.closing(Readers()) as readers:
        for entry in manifests.values():
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
            f"{splits.with_examples(tasks, data_dir)}"
        )
    _check_names(names, mixture)
    return EvalSet(
        examples=tuple(examples),
        vocabulary=vocabulary,
        metric_functions={
            task: entry.seqio_metrics or entry.metrics for task, entry in manifests.items()
        },
        fingerprints={task: entry.fingerprint for task, entry in manifests.items()},
        split_hash=split_hash(names),
        split_hashes={task: split_hash(found) for task, found in ids.items()},
    )


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
    lists = {name: strings(fields, name, where) if fields.get(name) else () for name in _LISTS}
    choices = lists["answer_choices"]
    queries = _queries(fields.get("queries"), where)
    query_ids, queries_cut = tokenizer.prompts([query.inputs for query in queries])
    prior_ids, _ = tokenizer.prompts([query.prior for query in queries if query.prior])
    whole = fields.get("inputs_text")
    if not whole or not isinstance(whole, str):  # none, or the task's own field of this name
        whole = words(body, vocabulary)
    references = fields.get("targets_text") or vocabulary.decode(row.arrays["targets"])
    if not references and fields.get("targets_text") == []:
        raise ValueError(
            f"{where} has no references: its targets_text and its target are empty. Leave it out "
            f"of the task."
        )
    texts = {name: _text(fields.get(name, ""), where, name) for name in _TEXTS}
    frame, stop_id = spelled_frame(fields.get("metric_context", ""), vocabulary)
    return EvalExample(
        seed=texts.pop("render_seed"),
        record_task=texts.pop("task"),
        **texts,
        task=entry.task,
        id=str(fields.get("id", index)),
        metric_names=lists["metric_names"],
        inputs_S=inputs_S,
        inputs_text=words(inputs_S.tolist(), vocabulary) if truncated else whole,
        references=References(
            (references,)
            if isinstance(references, str)
            else strings(fields, "targets_text", where),
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
        seqio=seqio_example.of_row(row, entry.seqio_metrics, vocabulary, tokenizer, inputs_S),
    )


def _text(value: Any, where: str, name: str) -> str:
    """A label, which may be a number: examples are grouped by it."""
    if isinstance(value, list | dict):
        raise ValueError(
            f"{where}: {name!r} must be a text or a number, got {value!r:.80}: `evaluate` groups "
            f"examples by it. Have a preprocessor of the task name it otherwise."
        )
    return str(value)


def _queries(value: Any, where: str) -> tuple[Query, ...]:
    """Those that a task asks in place of its prompt: a field of ours, or a task's own so called."""
    try:
        return tuple(Query(**query) for query in json.loads(value or "[]"))
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"{where}: 'queries' must be what register_record_task writes there, got "
            f"{value!r:.80}: `evaluate` asks them in place of the prompt. Have a preprocessor of "
            f"the task name it otherwise."
        ) from error


def _baselines(fields: Mapping[str, Any]) -> dict[str, str]:
    """What the copy baselines predict, for the same examples as the model: an empty text counts.

    Without demos there is none to copy: the field of that baseline is empty, and left out here.
    """
    found = {name: fields[name] for name in ("copy_input", "copy_demo") if name in fields}
    if not found.get("copy_demo") and not fields.get("demo_ids"):
        found.pop("copy_demo", None)
    return found


def _has_prompts(entry: manifest.TaskManifest) -> bool:
    return entry.num_examples > 0 and entry.online is None and entry.features.keys() >= _FEATURES


def _check_prompts(entry: manifest.TaskManifest) -> None:
    if entry.online is not None or not entry.features.keys() >= _FEATURES:
        raise ValueError(
            f"Task {entry.task!r} holds raw text for denoising, not prompts with references; it "
            f"can be trained on but not evaluated by generation. Name an instruction mixture."
        )


def _check_names(names: Sequence[str], mixture: str) -> None:
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise ValueError(f"Two examples of {mixture!r} are called {name!r}; ids must differ.")
        seen.add(name)
