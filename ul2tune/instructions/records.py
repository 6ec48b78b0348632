"""The one example model that every instruction collection reduces to, before text is rendered.

A collection is a *loader* (its files -> :class:`Record`) and a *renderer* (record, configuration,
seed -> :class:`Rendered`). Renderers are pure functions, so the same record always gives the same
text; what tokenises, mixes, trains and scores knows only these two classes.

    files ──loader──> Record ──renderer──> Rendered ──SeqIO, prepare──> Example(arrays, fields)
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal, Protocol, get_args

from ul2tune.instructions import reading

# What training sees: see `Record.split_level`.
SplitLevel = Literal["train", "supervised", "partial", "held_out"]
# Zero-shot or few-shot, with or without answer options in the prompt.
TemplateStyle = Literal["zs_opt", "zs_noopt", "fs_opt", "fs_noopt"]
SPLIT_LEVELS: tuple[SplitLevel, ...] = get_args(SplitLevel)
TEMPLATE_STYLES: tuple[TemplateStyle, ...] = get_args(TemplateStyle)


@dataclass(frozen=True, kw_only=True)
class Demo:
    """A worked example shown before the query.

    Attributes:
      input, target: the example as the collection states it.
      explanation: why the target is right (or, for a negative example, wrong); None = not stated.
      negative: the target is an example of what not to answer.
      id: names the demo in published scores; empty = numbered by its position.
    """

    input: str
    target: str
    explanation: str | None = None
    negative: bool = False
    id: str = ""


@dataclass(frozen=True, kw_only=True)
class Record:
    """One example of one task, with everything a renderer or a metric may need.

    Attributes:
      id: unique within the task; randomness and published scores are keyed by it.
      task, category, cluster: a category is a kind of task, a cluster a group of categories.
      benchmark: the collection the task is from.
      license: of the instance, as its source states it.
      split_level: what training sees: this very example ("train"), other examples of the task
        ("supervised"), other tasks of the category ("partial"), nothing of it ("held_out").
      instruction: what to do, in words; empty if it is part of `input`.
      input: the instance.
      targets: all acceptable references, best first.
      answer_choices: the closed set of answers for rank classification; None = free text.
      demos: candidates in order; the renderer decides how many fit.
      explanation: rationale or chain of thought that leads to the target.
      template_id, template_style, inverted: which template renders it; empty = the only one.
      metric_names: the scores the collection reports, its headline first: keys of
        `ul2tune.metrics.registry.SCORES`, or the ranks of `ul2tune.evaluation.report`.
      structure: JSON text of what the instance is about beside words (a table, a schema), for a
        renderer that writes it out; empty = nothing.
      metric_context: JSON text of what metrics need beside references
        (`ul2tune.metrics.references`); empty = nothing.

    Raises:
      ValueError: on construction, naming the field and the value that is wrong.
    """

    id: str
    task: str
    input: str
    targets: tuple[str, ...]
    category: str = ""
    cluster: str = ""
    benchmark: str = ""
    license: str = ""
    split_level: SplitLevel = "train"
    instruction: str = ""
    answer_choices: tuple[str, ...] | None = None
    demos: tuple[Demo, ...] = ()
    explanation: str = ""
    template_id: str = ""
    template_style: TemplateStyle = "zs_noopt"
    inverted: bool = False
    metric_names: tuple[str, ...] = ()
    structure: str = ""
    metric_context: str = ""

    def __post_init__(self) -> None:
        for name in _TEXT_FIELDS:
            _check(self, name, isinstance(getattr(self, name), str), "a string")
        for name in ("id", "task"):
            _check(self, name, bool(getattr(self, name)), "not empty")
        for name in ("targets", "metric_names"):
            _check(self, name, _is_text_tuple(getattr(self, name)), "a list of strings")
        _check(self, "targets", bool(self.targets), "at least one reference")
        choices = self.answer_choices
        is_set = choices is None or (_is_text_tuple(choices) and len(set(choices)) == len(choices))
        _check(self, "answer_choices", is_set, "null or a list of different strings")
        _check(self, "answer_choices", choices is None or len(choices) > 1, "two or more choices")
        demos = isinstance(self.demos, tuple) and all(isinstance(d, Demo) for d in self.demos)
        _check(self, "demos", demos, "a list of demos")
        for index, demo in enumerate(self.demos):
            texts = (demo.input, demo.target, demo.explanation or "", demo.id)
            valid = all(isinstance(text, str) for text in texts) and isinstance(demo.negative, bool)
            _check(self, "demos", valid, f"a list of demos, but demo {index} holds a wrong type")
        _check(self, "split_level", self.split_level in SPLIT_LEVELS, f"one of {SPLIT_LEVELS}")
        style = self.template_style in TEMPLATE_STYLES
        _check(self, "template_style", style, f"one of {TEMPLATE_STYLES}")
        _check(self, "inverted", isinstance(self.inverted, bool), "true or false")

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values; `from_json` restores an equal record."""
        return json.loads(json.dumps(asdict(self)))

    @staticmethod
    def from_json(data: Any, where: str = "record") -> Record:
        """Parses one record; `where` (file and line) starts every error message.

        Raises:
          ValueError: if a field is unknown, missing, of the wrong type or out of range.
        """
        if not isinstance(data, Mapping):
            raise ValueError(f"{where}: expected a JSON object, got {type(data).__name__}.")
        values = _known(data, _RECORD_FIELDS, where)
        for name in ("targets", "answer_choices", "metric_names"):
            if isinstance(values.get(name), list):
                values[name] = tuple(values[name])
        if isinstance(values.get("demos"), list):
            values["demos"] = tuple(_demo_from_json(d, where) for d in values["demos"])
        try:
            return Record(**values)
        except (ValueError, TypeError) as error:
            raise ValueError(f"{where}: {error}") from error


@dataclass(frozen=True, kw_only=True)
class Query:
    """What is scored for one answer choice, where each choice has a prompt of its own.

    Attributes:
      inputs, targets: the choice's score is the likelihood of `targets` given `inputs`.
      prior: a prompt that says nothing; the score of `targets` given it is subtracted (pointwise
        mutual information). Empty = nothing is subtracted.
    """

    inputs: str
    targets: str
    prior: str = ""


@dataclass(frozen=True, kw_only=True)
class Rendered:
    """A record as the model meets it.

    Attributes:
      inputs, targets: prompt and the one reference trained on.
      answer_choices: the record's, as the model is to score them; empty = free text.
      queries: one per answer choice, where each has a prompt of its own; its prediction is then
        the choice with the highest mean score, not a generation. Empty = a choice is scored after
        `inputs`.
      demo_ids: the demos that made it into the prompt, in order.
      truncated: the prompt was cut to its token budget, or demos were left out for it.
      metric_context: what metrics need to know of the rendering, in place of the record's; empty =
        nothing.
    """

    inputs: str
    targets: str
    answer_choices: tuple[str, ...] = ()
    queries: tuple[Query, ...] = ()
    demo_ids: tuple[str, ...] = ()
    truncated: bool = False
    metric_context: str = ""

    def __post_init__(self) -> None:
        assert len(self.queries) in (0, len(self.answer_choices)), "one query per answer choice"


class RecordCorpus(Protocol):
    """Records by split."""

    @property
    def splits(self) -> Sequence[str]: ...

    def read(self, split: str) -> Iterator[Record]: ...

    def fingerprint(self) -> str:
        """Changes whenever the records do."""
        ...


# (record, seed) -> text; None = the collection leaves this record out. Configuration is bound
# beforehand (`functools.partial`).
Renderer = Callable[[Record, int], Rendered | None]

# What a prepared example carries for evaluation, beside its tokens (`Example.fields`).
FIELD_NAMES = (
    "id",
    "task",
    "category",
    "cluster",
    "template_id",
    "inputs_text",
    "targets_text",
    "answer_choices",
    "demo_ids",
    "metric_names",
    "copy_input",
    "copy_demo",
    "metric_context",
    "benchmark",
    "split_level",
    "queries",
    "truncated",
)


def move_space(rendered: Rendered) -> Rendered:
    """Moves the spaces at the end of the prompt to the start of every answer.

    T5's vocabulary drops the former and adds the latter by itself. In a vocabulary that keeps
    spaces as they are, "Output: " + "file" has the piece "file" where prompts have "▁file"; with
    "Output:" + " file", an answer is spelled with the pieces of the text it copies.
    """
    inputs, targets = _space_moved(rendered.inputs, rendered.targets)
    choices, queries = rendered.answer_choices, rendered.queries
    if not queries:
        choices = tuple(_space_moved(rendered.inputs, choice)[1] for choice in choices)
    return replace(
        rendered,
        inputs=inputs,
        targets=targets,
        answer_choices=choices,
        queries=tuple(_query_moved(query) for query in queries),
    )


def _space_moved(inputs: str, targets: str) -> tuple[str, str]:
    kept = inputs.rstrip(" ")
    return kept, inputs[len(kept) :] + targets


def _query_moved(query: Query) -> Query:
    inputs, targets = _space_moved(query.inputs, query.targets)
    return Query(inputs=inputs, targets=targets, prior=query.prior.rstrip(" "))


def copy_input(record: Record) -> str:
    """Model-free baseline (Wang et al. 2022, §5): answer with the instance's input."""
    return record.input


def copy_demo(record: Record) -> str:
    """Model-free baseline (Wang et al. 2022, §5): answer with the first positive demo's target.

    Empty if there is none.
    """
    return next((demo.target for demo in record.demos if not demo.negative), "")


def evaluation_fields(record: Record, rendered: Rendered) -> dict[str, Any]:
    """The fields of :data:`FIELD_NAMES`: strings, or lists of strings where there may be many.

    `queries` is JSON text, a list of :class:`Query`; empty if there are none. `truncated` is "yes"
    or empty.
    """
    return {
        "id": record.id,
        "task": record.task,
        "category": record.category,
        "cluster": record.cluster,
        "template_id": record.template_id,
        "inputs_text": rendered.inputs,
        "targets_text": list(record.targets),
        "answer_choices": list(rendered.answer_choices),
        "demo_ids": list(rendered.demo_ids),
        "metric_names": list(record.metric_names),
        "copy_input": copy_input(record),
        "copy_demo": copy_demo(record),
        "metric_context": rendered.metric_context or record.metric_context,
        "benchmark": record.benchmark,
        "split_level": record.split_level,
        "queries": json.dumps([asdict(q) for q in rendered.queries]) if rendered.queries else "",
        "truncated": "yes" if rendered.truncated else "",
    }


def read_jsonl(path: str | Path) -> Iterator[Record]:
    """Reads records from a JSON-lines file; blank lines are skipped.

    Raises:
      ValueError: naming file and line of the first record that is wrong.
    """
    for number, data in reading.read_json_lines(path):
        yield Record.from_json(data, f"{path}:{number}")


def write_jsonl(records: Sequence[Record], path: str | Path) -> None:
    """Writes one record per line, as :func:`read_jsonl` reads them."""
    lines = [json.dumps(r.to_json(), ensure_ascii=False, sort_keys=True) + "\n" for r in records]
    Path(path).write_text("".join(lines), encoding="utf-8")


def stable_hash(*parts: str | int) -> int:
    """A 64-bit hash of the parts: equal in every process and on every machine, unlike `hash`.

    Example-level choices (which reference, which instances, which phrasing) are keyed by it, so
    they depend on the seed and the example's name alone: not on order or number of workers.
    """
    digest = hashlib.blake2b(json.dumps(parts).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little")


_RECORD_FIELDS = frozenset(f.name for f in fields(Record))
_DEMO_FIELDS = frozenset(f.name for f in fields(Demo))
_TEXT_FIELDS = tuple(f.name for f in fields(Record) if f.type == "str")


def _known(data: Mapping[str, Any], names: frozenset[str], where: str) -> dict[str, Any]:
    unknown = sorted(set(data) - names)
    if unknown:
        raise ValueError(f"{where}: unknown field {unknown[0]!r}; fields are {sorted(names)}.")
    return dict(data)


def _demo_from_json(data: Any, where: str) -> Demo:
    if not isinstance(data, Mapping):
        raise ValueError(f"{where}: a demo must be a JSON object, got {type(data).__name__}.")
    try:
        return Demo(**_known(data, _DEMO_FIELDS, where))
    except TypeError as error:
        raise ValueError(f"{where}: demo {dict(data)!r}: {error}") from error


def _is_text_tuple(value: Any) -> bool:
    return isinstance(value, tuple) and all(isinstance(item, str) for item in value)


def _check(record: Record, name: str, condition: bool, expected: str) -> None:
    if not condition:
        value = repr(getattr(record, name))
        shown = value if len(value) <= 80 else value[:77] + "..."
        raise ValueError(f"field {name!r} of record {record.id!r} must be {expected}, got {shown}.")
