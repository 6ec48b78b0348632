"""Few-shot prompts from a templated query and its templated exemplars.

    {inputs_prefix}{exemplar}{x_y_delimiter}{targets_prefix}{its target}{separator}
    …
    {inputs_prefix}{query}{x_y_delimiter}{targets_prefix}            -> {wrapper}

Sources: `few_shot.py` of FLAN v1 and v2 and `fewshot_preprocessor` of SeqIO, whose order of
stripping and wrapping is kept byte for byte.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ul2tune.instructions.exemplars import fitting
from ul2tune.instructions.patterns import WHITESPACE, Pattern, compile_pattern
from ul2tune.instructions.records import Record, Rendered, stable_hash
from ul2tune.instructions.tokenizer import Tokenizer

_PLAIN = compile_pattern("{inputs}", "input_pattern")
MIX_SEPARATORS = ("\n", "\n\n", "\n\n\n")
MAX_TOKENS_V1 = 960
MAX_TOKENS_V2 = 1920


@dataclass(frozen=True, kw_only=True)
class Layout:
    """How query and exemplars become a prompt.

    Attributes:
      inputs_prefix, x_y_delimiter, targets_prefix: around each example's two texts.
      separators: what follows an exemplar: drawn per `draw_by`, or the one of the query's template.
      draw_by: "template" (separator k is template k's), "example" or "task" (drawn at random).
      wrappers: what the whole goes through: one, or one per template; the fields are `inputs` and
        `Definition`.
      strip: what is removed from the prompt before it is wrapped: "spaces" at its end, or "all"
        outer white space.
      strip_targets: remove outer white space of the target.
      max_tokens: budget of query and exemplars, without wrapper and end of sequence; None = none.
      count_separators: they count towards the budget.
      drop_bare: an example that no exemplar fits is dropped.
    """

    inputs_prefix: str = ""
    x_y_delimiter: str = ""
    targets_prefix: str = ""
    separators: tuple[str, ...] = ("\n\n",)
    draw_by: Literal["template", "example", "task"] = "template"
    wrappers: tuple[Pattern, ...] = (_PLAIN,)
    strip: Literal["spaces", "all"] = "spaces"
    strip_targets: bool = False
    max_tokens: int | None = MAX_TOKENS_V2
    count_separators: bool = True
    drop_bare: bool = False


# FLAN 2021: the marks of the authors' pretrained model, around every training prompt.
MARKED = Layout(
    inputs_prefix="0 ",
    x_y_delimiter=" X ",
    targets_prefix="1 ",
    separators=(" X ",),
    wrappers=(compile_pattern("{inputs} FLAN", "input_pattern"),),
    strip="all",
    max_tokens=MAX_TOKENS_V1,
)
MARKED_ZERO_SHOT = compile_pattern("0 {inputs} X 1 FLAN", "input_pattern")
# FLAN 2021: the layout of its baselines, which knows no marks.
CONTINUATION = Layout(
    x_y_delimiter=" ", separators=("\n\n",), strip="all", max_tokens=MAX_TOKENS_V1
)


def render(
    record: Record, seed: int, *, layout: Layout, tokenizer: Tokenizer | None = None
) -> Rendered | None:
    """Joins a record's demos and input.

    Demos are the exemplars as their template renders them (`flan.corpus`). Those after the first
    that exceeds the budget are left out.

    Returns:
      None if no exemplar fits and the layout drops such examples.
    """
    separator = _pick(record, seed, layout)
    demos = record.demos
    texts = [_exemplar(demo.input, demo.target, separator, layout) for demo in demos]
    if tokenizer is not None and layout.max_tokens is not None:
        counted = separator if layout.count_separators else ""
        query = len(tokenizer.encode(record.input + layout.x_y_delimiter))
        lengths = (
            len(tokenizer.encode(demo.input + layout.x_y_delimiter))
            + len(tokenizer.encode(demo.target + counted))
            for demo in demos
        )
        texts = texts[: fitting(lengths, layout.max_tokens - query)]
    if not texts and layout.drop_bare:
        return None
    query_text = layout.inputs_prefix + record.input + layout.x_y_delimiter
    inputs = "".join(texts) + query_text + layout.targets_prefix.rstrip()
    inputs = inputs.strip(WHITESPACE) if layout.strip == "all" else inputs.rstrip(" ")
    wrapper = layout.wrappers[_template(record) % len(layout.wrappers)]
    inputs = wrapper.render({"inputs": inputs, "Definition": record.instruction})
    target = record.targets[0]
    return Rendered(
        inputs=inputs,
        targets=target.strip(WHITESPACE) if layout.strip_targets else target,
        answer_choices=record.answer_choices or (),
        demo_ids=tuple(demo.id for demo in demos[: len(texts)]),
        truncated=len(texts) < len(demos),
    )


def render_zero_shot(record: Record, seed: int, *, wrapper: Pattern = _PLAIN) -> Rendered:
    """A templated record as it is, or wrapped (:data:`MARKED_ZERO_SHOT`)."""
    return Rendered(
        inputs=wrapper.render({"inputs": record.input, "Definition": record.instruction}),
        targets=record.targets[0],
        answer_choices=record.answer_choices or (),
    )


def _exemplar(inputs: str, target: str, separator: str, layout: Layout) -> str:
    head = layout.inputs_prefix + inputs + layout.x_y_delimiter
    return head + layout.targets_prefix + target + separator


def _pick(record: Record, seed: int, layout: Layout) -> str:
    if layout.draw_by == "template":
        return layout.separators[_template(record) % len(layout.separators)]
    key = record.id if layout.draw_by == "example" else ""
    draw = stable_hash(seed, "separator", record.task, key)
    return layout.separators[draw % len(layout.separators)]


def _template(record: Record) -> int:
    return int(record.template_id or 0)
