"""Rows of a Flan task -> records in a template, with their exemplars.

    rows ──template, option style──> Record(input, targets, demos) ──few_shot.render──> Rendered

DIVERGES (unless `compat`): the authors give template i to example i modulo the number of templates
(in the order of the file) and drop the last incomplete round. Ours is drawn per example from
(seed, task, id), so that it depends on no order, and nothing is dropped. Where options have a
style, theirs name an answer by its option in every template of the task; ours keeps its words where
a template does not show the options. Exemplars: see `Mode`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Protocol

from ul2tune.instructions import exemplars, options
from ul2tune.instructions.options import Formats
from ul2tune.instructions.patterns import Template
from ul2tune.instructions.records import Demo, Record, TemplateStyle, stable_hash

# Exemplars come from so many of the first training rows: a pool is held in memory.
MAX_POOL = 20_000
METRICS = ("exact_match", "token_f1", "rouge_l")


@dataclass(frozen=True, kw_only=True)
class Row:
    """One row of a task.

    Attributes:
      id: unique in its split.
      fields: what patterns may name: strings. `options_`, `options_str`, `dialog_` are derived.
      options: the answer options in order.
      dialog: the turns before the answer.
      answers: all references; empty = the field `answer_field`.
      answer_field: the field that they are references for.
      instruction: a definition that patterns name `{Definition}`.
    """

    id: str
    fields: Mapping[str, str]
    options: tuple[str, ...] = ()
    dialog: tuple[str, ...] = ()
    answers: tuple[str, ...] = ()
    answer_field: str = "answer"
    instruction: str = ""


class Rows(Protocol):
    """The rows of a task by split (`flan.rows`)."""

    @property
    def splits(self) -> Sequence[str]: ...

    def read(self, split: str) -> Iterator[Row]: ...

    def fingerprint(self) -> str: ...


@dataclass(frozen=True, kw_only=True)
class Filled:
    """A row in a template."""

    inputs: str
    targets: tuple[str, ...]
    choices: tuple[str, ...] | None


@dataclass(frozen=True, kw_only=True)
class Mode:
    """How a task's rows are rendered.

    Attributes:
      templates: the templates.
      style: zero-shot or few-shot, with or without options.
      formats: draw a style for options and dialogue; None = the fixed forms.
      shots: exemplars per query.
      thinned: `shots` are drawn and those with the query's template kept, as in `x_shot`: 25 draws
        of 10 templates leave 2 or 3. (Else all `shots` are kept.)
      own_templates: an exemplar has a template of its own, not the query's.
      inverted: an input-inversion task.
      compat: the authors' quirks: templates in turn, incomplete rounds dropped, the query among its
        exemplars, answers named by options that their template does not show.
      seed: of all draws.
    """

    templates: tuple[Template, ...]
    style: TemplateStyle = "zs_opt"
    formats: Formats | None = None
    shots: int = 0
    thinned: bool = False
    own_templates: bool = False
    inverted: bool = False
    compat: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.templates or self.shots < 0:
            raise ValueError("A mode needs one template or more, and 0 shots or more.")


def fill(
    row: Row,
    template: Template,
    *,
    formats: Formats | None = None,
    key: tuple = (),
    shown: bool | None = None,
) -> Filled:
    """Renders a row in a template.

    Args:
      row: the row.
      template: the template.
      formats: with `key`, decides the style of options and dialogue; None = the fixed forms. A row
        with more options or turns than a style names has the fixed form.
      key: of the draw.
      shown: whether the prompt's options name the answer; None = where the template shows them.

    Raises:
      ValueError: naming template and field, where the row lacks one.
    """
    values = dict(row.fields)
    field = row.answer_field
    answers = row.answers or ((values[field],) if field in values else ())
    choices = row.options
    if row.options:
        values.setdefault("options_str", options.plain_options(row.options))
        values.setdefault("options_", values["options_str"])
        shown = _shows_options(template) if shown is None else shown
        if formats and shown and answers and len(row.options) <= options.MAX_OPTIONS:
            style = formats.options.draw(*key)
            styled = [options.styled_options(row.options, answer, style) for answer in answers]
            answers = tuple(one.answer for one in styled)
            values["options_"], choices = styled[0].text, styled[0].choices
    if row.dialog:
        if formats and len(row.dialog) < options.MAX_TURNS:
            style = formats.dialogs.draw(*key)
            values["dialog_"] = options.styled_dialog(row.dialog, style)
        else:
            values["dialog_"] = options.plain_dialog(row.dialog)
    if row.instruction:
        values.setdefault("Definition", row.instruction)
    rendered = [template.targets.render({**values, field: answer}) for answer in answers]
    if answers:
        values[field] = answers[0]
    closed = template.targets.text == "{answer}" and len(choices) > 1
    return Filled(
        inputs=template.inputs.render(values),
        targets=tuple(dict.fromkeys(rendered)) or (template.targets.render(values),),
        choices=choices if closed and len(set(choices)) == len(choices) else None,
    )


@dataclass(frozen=True, kw_only=True)
class TemplatedCorpus:
    """The records of one task in one mode (`records.RecordCorpus`).

    Attributes:
      task, category, benchmark: for the records.
      rows: what is rendered.
      mode: how.
    """

    task: str
    rows: Rows
    mode: Mode
    category: str = ""
    benchmark: str = ""

    @property
    def splits(self) -> tuple[str, ...]:
        return tuple(self.rows.splits)

    def fingerprint(self) -> str:
        return f"{stable_hash(self.rows.fingerprint(), repr(self.mode), self.task):x}"

    def read(self, split: str) -> Iterator[Record]:
        """The records of one split.

        Raises:
          ValueError: if a file is malformed or a row lacks a field.
        """
        return self.read_shard(split, 0, 1)

    def read_shard(self, split: str, shard: int, num_shards: int) -> Iterator[Record]:
        """Every `num_shards`-th record from number `shard`; the others are not rendered."""
        pool = _Pool(self.rows, self.mode) if self.mode.shots else None
        for position, (row, template) in enumerate(self._templated(split)):
            if position % num_shards == shard:
                yield self._record(row, template, position, pool)

    def _templated(self, split: str) -> Iterator[tuple[Row, int]]:
        mode, number = self.mode, len(self.mode.templates)
        rows = iter(self.rows.read(split))
        if not mode.compat:
            for row in rows:
                yield row, stable_hash(mode.seed, "template", self.task, row.id) % number
            return
        while len(batch := list(islice(rows, number))) == number:
            yield from zip(batch, range(number))

    def _record(self, row: Row, template: int, position: int, pool: _Pool | None) -> Record:
        mode = self.mode
        filled = fill(
            row,
            mode.templates[template],
            formats=mode.formats,
            key=(mode.seed, self.task, row.id),
            shown=any(map(_shows_options, mode.templates)) if mode.compat else None,
        )
        return Record(
            id=row.id,
            task=self.task,
            category=self.category,
            benchmark=self.benchmark,
            instruction=row.instruction,
            input=filled.inputs,
            targets=filled.targets,
            answer_choices=filled.choices,
            demos=pool.demos(row, template, position) if pool else (),
            explanation=row.fields.get("chain_of_thought", ""),
            template_id=str(template),
            template_style=mode.style,
            inverted=mode.inverted,
            metric_names=METRICS,
        )


def _shows_options(template: Template) -> bool:
    return "options_" in (*template.inputs.names, *template.targets.names)


class _Pool:
    """The training rows that exemplars are drawn from."""

    def __init__(self, rows: Rows, mode: Mode):
        if "train" not in rows.splits:
            raise ValueError(f"Few-shot prompts need a train split; there are {rows.splits}.")
        self._mode = mode
        self._names = [n for n in mode.templates[0].inputs.names if not n.startswith("options_")]
        self._rows = {row.id: row for row in islice(rows.read("train"), MAX_POOL)}
        self._pool = [Demo(id=r.id, input=self._text(r), target="") for r in self._rows.values()]

    def demos(self, query: Row, template: int, position: int) -> tuple[Demo, ...]:
        mode, number = self._mode, len(self._mode.templates)
        chosen = exemplars.choose(
            self._pool,
            self._shots(query, template, position),
            query_id=query.id,
            query_input=self._text(query),
            seed=mode.seed,
            leaky=mode.compat,
        )
        demos = []
        for index, demo in enumerate(chosen):
            own = template
            if mode.own_templates and mode.compat:
                own = (mode.shots * position + index) % number
            elif mode.own_templates:
                own = stable_hash(mode.seed, "exemplar template", query.id, demo.id) % number
            filled = fill(self._rows[demo.id], mode.templates[own])
            demos.append(Demo(id=demo.id, input=filled.inputs, target=filled.targets[0]))
        return tuple(demos)

    def _shots(self, query: Row, template: int, position: int) -> int:
        mode, number = self._mode, len(self._mode.templates)
        if not mode.thinned:
            return mode.shots
        if mode.compat:
            # Batch n of the exemplars' stream, whose templates also come in turn.
            stream = [(mode.shots * position + index) % number for index in range(mode.shots)]
            return stream.count(template)
        whole, rest = divmod(mode.shots, number)
        return whole + (stable_hash(mode.seed, "shots", query.id) % number < rest)

    def _text(self, row: Row) -> str:
        """What makes two rows the same question: the fields that the first template shows."""
        shown = [row.fields.get(name, "") for name in self._names]
        return "\x1f".join((*shown, *row.dialog)) if shown or row.dialog else row.id
