"""MetaICL: learning to learn in context (Min et al. 2022, arXiv:2110.15943; OPT-IML, section 5).

An example is k demos of a task and a query of the same task:

    direct    {x1}⏎{y1}⏎⏎⏎{x2}⏎{y2}⏎⏎⏎{x}⏎       ->  {y}
    channel   {y1}⏎{x1}⏎⏎⏎{y2}⏎{x2}⏎⏎⏎{y}⏎       ->  {x}

*Label loss* trains on the part after the arrow. *Suffix loss* (OPT-IML) trains on the first demo's
answer and everything after it: that is one cut further to the left, ``{x1}⏎ -> {y1}⏎⏎⏎…{y}``, so a
boundary between inputs and targets says all there is to say about the loss, in every layout.

The prediction is the answer choice with the lowest mean token loss: of the answer after the prompt,
of the input after the answer ("channel"), or of the answer less its loss after an input that says
nothing (`pmi`). Each choice has a prompt of its own then, see :func:`queries`.

Written from descriptions of the method; MetaICL's own code is licensed CC BY-NC and none is here.
T5's vocabulary drops newlines (`docs/mixing.md`).

DIVERGES (unless `compat`): in the release no newline stands between input and answer where a task's
`options` are empty (its test for tasks without labels holds there), nor one too many beside an
empty input.

DIVERGES: in the release a prompt that is too long starts in the middle of a demo; ours are whole.

DIVERGES: in the release the newline between the two texts of a query is part of what is predicted
(``{x} -> ⏎{y}``): it counts in the loss, and in the mean over the tokens of a choice.

DIVERGES: in the release an example of a task "inst:…" that is too long may lose the end of its
output instead (of two of them, both texts are halved); ours keeps the output.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from ul2tune.instructions import exemplars, reading
from ul2tune.instructions.records import Demo, Query, Record, Rendered, stable_hash
from ul2tune.instructions.tokenizer import Tokenizer, cut_text

SEPARATOR = "\n\n\n"
# A model that has always seen one separator overfits it (OPT-IML, table 20): draw it.
SEPARATORS = (SEPARATOR, "\n\n", "\n", " ", " ### ", "\n---\n")
# What stands for an input that says nothing (PMI: the prior of an answer).
NO_INPUT = "N/A"
# Seeds of the demos over which MetaICL reports average and worst.
SEEDS = (100, 13, 21, 42, 87)
EXAMPLES_PER_TASK = 16_384


@dataclass(frozen=True, kw_only=True)
class MetaICL:
    """How examples are put together.

    Attributes:
      method: "direct" predicts the answer, "channel" the input from the answer.
      demos: k; with `zipf` the largest k.
      zipf: draw k from 0 … `demos` by Zipf's law with this exponent; None = always `demos`.
      loss: "label" or "suffix"; the latter for training records only.
      separators: between examples; one is drawn for each record where there are several.
      newlines: False writes spaces instead of newlines (MetaICL's raw language models).
      example_tokens: longest single example, with the newlines before and in it and two to spare;
        its input is cut, its answer kept. All answer choices to be ranked leave the same input.
      max_tokens: longest whole; the demos that are left out are the first ones.
      pmi: predict by pointwise mutual information: subtract the loss of the answer after the same
        demos and the input "N/A".
      compat: the release's newlines around answers without choices and around empty inputs.
    """

    method: Literal["direct", "channel"] = "direct"
    demos: int = 16
    zipf: float | None = None
    loss: Literal["label", "suffix"] = "label"
    separators: tuple[str, ...] = (SEPARATOR,)
    newlines: bool = True
    example_tokens: int = 256
    max_tokens: int = 1024
    pmi: bool = False
    compat: bool = False

    def __post_init__(self) -> None:
        for name, known in (("method", ("direct", "channel")), ("loss", ("label", "suffix"))):
            if getattr(self, name) not in known:
                raise ValueError(f"MetaICL.{name} is {getattr(self, name)!r}: use one of {known}.")
        if self.demos < 0 or not self.separators:
            raise ValueError(f"MetaICL needs demos >= 0 and a separator, got {self}.")
        if self.pmi and self.method == "channel":
            raise ValueError(
                "MetaICL.pmi is for method='direct': with 'channel' every choice is scored by the "
                "same text, the input, whose own likelihood cancels. Drop one of them."
            )
        if not 3 <= self.example_tokens <= self.max_tokens:
            raise ValueError(
                f"MetaICL.example_tokens must be between 3 and max_tokens={self.max_tokens}, got "
                f"{self.example_tokens}."
            )


def zipf(exponent: float, most: int) -> tuple[float, ...]:
    """P(k) for k = 0 … `most`, proportional to ``(k + 1) ** -exponent``.

    >>> [round(zipf(a, 5)[0], 3) for a in (4, 2)]
    [0.925, 0.671]
    """
    weights = [(k + 1.0) ** -exponent for k in range(most + 1)]
    return tuple(weight / sum(weights) for weight in weights)


def render(
    record: Record,
    seed: int,
    *,
    config: MetaICL = MetaICL(),
    tokenizer: Tokenizer | None = None,
) -> Rendered:
    """Renders a record with its first k demos.

    Args:
      record: with the demos to show, in order (:class:`TaskFile` draws them).
      seed: with the record's id, decides k and the separator.
      config: the format.
      tokenizer: counts tokens; None = no limits.

    Returns:
      inputs and targets whose concatenation is the text; with "channel" the target is the input of
      the record. Records to evaluate that have answer choices also have `queries`; training records
      have choices only where these can be scored without (direct, no PMI).
    """
    rendered = _render(record, seed, config, tokenizer)
    if record.answer_choices is None:
        return rendered
    if record.split_level == "train":
        alone = config.method == "direct" and not config.pmi
        return replace(rendered, answer_choices=record.answer_choices if alone else ())
    asked = queries(record, seed, config=config, tokenizer=tokenizer)
    return replace(rendered, answer_choices=record.answer_choices, queries=asked)


def _render(
    record: Record,
    seed: int,
    config: MetaICL,
    tokenizer: Tokenizer | None,
    most: int | None = None,
) -> Rendered:
    """The text without what ranks its answer choices; with `most` demos at most."""
    shown = _shown(record, seed, config)
    separator, choices = separator_of(record, seed, config), record.answer_choices or ()
    rivals = choices if record.split_level != "train" else ()
    pairs = [(demo.input, demo.target) for demo in shown]
    parts = []
    for question, answer in (*pairs, (record.input, record.targets[0])):
        own = rivals if len(parts) == len(shown) else ()
        layout = _layout(question, separator if parts else "", bool(choices), config)
        parts.append(_cut(question, answer, own, layout, config, tokenizer))
    kept = len(shown) if most is None else min(most, len(shown))
    if tokenizer is not None:
        lengths = [part.tokens for part in reversed(parts)]
        kept = min(kept, exemplars.fitting(lengths[1:], config.max_tokens - lengths[0]))
    truncated = kept < len(shown) or any(part.truncated for part in parts)
    parts = parts[len(shown) - kept :]
    parts[0] = replace(parts[0], before="")
    whole = "".join(part.before + part.text for part in parts)
    split = len(whole) - len(parts[-1].last)
    if config.loss == "suffix" and record.split_level == "train":
        split = len(parts[0].first)
    demos = shown[len(shown) - kept :]
    return Rendered(
        inputs=whole[:split],
        targets=whole[split:],
        demo_ids=tuple(demo.id or f"demo-{i}" for i, demo in enumerate(demos)),
        truncated=truncated,
    )


def queries(
    record: Record,
    seed: int,
    *,
    config: MetaICL = MetaICL(),
    tokenizer: Tokenizer | None = None,
) -> tuple[Query, ...]:
    """One prompt with its target per answer choice: what a prediction compares.

    The prediction is the choice with the lowest mean token loss of the targets. With "channel" the
    choices stand in the prompts and the target is always the input.

    Raises:
      ValueError: if the record has no answer choices.
    """
    if record.answer_choices is None:
        raise ValueError(f"Record {record.id!r} of {record.task!r} has no answer choices.")
    # Only a training record may have suffix loss: a query is judged on its own answer.
    level = "supervised" if record.split_level == "train" else record.split_level
    asked = [
        replace(record, targets=(choice,), split_level=level) for choice in record.answer_choices
    ]
    found = []
    for one in asked:
        text = _render(one, seed, config, tokenizer)
        prior = ""
        if config.pmi:  # with the demos that fitted, and no more, although there is room
            most = len(text.demo_ids)
            prior = _render(without_input(one), seed, config, tokenizer, most).inputs
        found.append(Query(inputs=text.inputs, targets=text.targets, prior=prior))
    return tuple(found)


def without_input(record: Record) -> Record:
    """The record that measures how likely its answers are by themselves (PMI)."""
    return replace(record, input=NO_INPUT)


def _shown(record: Record, seed: int, config: MetaICL) -> list[Demo]:
    number = config.demos if config.zipf is None else _draw(record, seed, config)
    return [demo for demo in record.demos if not demo.negative][:number]


def separator_of(record: Record, seed: int, config: MetaICL) -> str:
    """The separator drawn for a record."""
    draw = stable_hash(seed, "separator", record.task, record.id)
    return config.separators[draw % len(config.separators)]


def _draw(record: Record, seed: int, config: MetaICL) -> int:
    point = stable_hash(seed, "k", record.task, record.id) / 2.0**64
    for k, probability in enumerate(zipf(config.zipf or 0.0, config.demos)):
        point -= probability
        if point < 0:
            return k
    return config.demos


@dataclass(frozen=True, kw_only=True)
class _Part:
    """An example of a prompt: `before` stands before it, `last` is what its loss would be on.

    `tokens` are those of all three, with the longest rival of its answer.
    """

    before: str
    first: str
    last: str
    tokens: int
    truncated: bool

    @property
    def text(self) -> str:
        return self.first + self.last


def _layout(input: str, separator: str, has_choices: bool, config: MetaICL) -> tuple[str, str]:
    """What stands before an example and between its two texts."""
    line = "\n" if config.newlines else " "
    if config.compat and config.newlines:
        if not has_choices or (not input and config.method == "channel"):
            line = ""
        if not input and config.method == "direct":
            separator = separator.removesuffix("\n")
    return separator, line


def _cut(
    input: str,
    output: str,
    rivals: Sequence[str],
    layout: tuple[str, str],
    config: MetaICL,
    tokenizer: Tokenizer | None,
) -> _Part:
    """Cuts the input so that it fits into one example's tokens with the longest of output and
    rivals, what stands before and between them, and two tokens (in the release, for marks of start
    and end that it no longer writes)."""
    before, line = layout
    tokens, truncated = 0, False
    if tokenizer is not None:
        asks, answers = layout if config.method == "direct" else (line, before)
        # An answer alone may be too long; a token of the question stays.
        most = config.example_tokens - 3 - len(tokenizer.encode(asks))
        output, long_answer = _shortened(output, answers, most, tokenizer)
        others = [min(len(tokenizer.encode(answers + rival)), most) for rival in rivals]
        longest = max([len(tokenizer.encode(answers + output)), *others])
        room = config.example_tokens - 2 - longest
        input, long_question = _shortened(input, asks, room, tokenizer)
        tokens = len(tokenizer.encode(asks + input)) + longest
        truncated = long_answer or long_question
    first, last = (input, output) if config.method == "direct" else (output, input)
    return _Part(before=before, first=first + line, last=last, tokens=tokens, truncated=truncated)


def _shortened(text: str, mark: str, tokens: int, tokenizer: Tokenizer) -> tuple[str, bool]:
    """A text that has at most so many tokens after a mark, and whether it was cut."""
    if len(tokenizer.encode(mark + text)) <= tokens:
        return text, False
    return (cut_text(mark + text, tokenizer, max(tokens, 1)) or "").removeprefix(mark), True


@dataclass(frozen=True, kw_only=True)
class TaskFile:
    """A task as a corpus: JSON lines ``{"task", "input", "output", "options"}``.

    Split "train": the training file, every example with demos drawn from the others of the file,
    as MetaICL trains. Split "validation": the test file, with the training file's examples as
    demos in their order (its k-shot files hold k).

    Attributes:
      train, test: paths; empty = no such file.
      demos: at most so many per record.
      trains: whether the training file is trained on, or holds demos only.
      limit: at most so many training examples.
      seed: of the draws.
    """

    train: str
    test: str = ""
    demos: int = 16
    trains: bool = True
    limit: int = EXAMPLES_PER_TASK
    seed: int = SEEDS[0]

    @property
    def splits(self) -> tuple[str, ...]:
        """SeqIO splits."""
        return (("train",) if self.trains else ()) + (("validation",) if self.test else ())

    def read(self, split: str) -> Iterator[Record]:
        """The records of one split.

        Raises:
          ValueError: naming file and line of what is malformed.
        """
        pool = [] if not self.train else list(load(self.train))[: self.limit]
        demos = [Demo(input=r.input, target=r.targets[0], id=r.id) for r in pool]
        if split == "train":
            for record in pool:
                chosen = exemplars.choose(
                    demos,
                    self.demos,
                    query_id=record.id,
                    query_input=record.input,
                    seed=self.seed,
                )
                yield replace(record, demos=chosen)
            return
        level = "supervised" if self.trains else "held_out"
        for record in load(self.test):
            yield replace(record, demos=tuple(demos[: self.demos]), split_level=level)

    def fingerprint(self) -> str:
        """Of the files' bytes and the options."""
        paths = [path for path in (self.train, self.test) if path]
        return reading.fingerprint(paths, replace(self, train="", test=""))


def load(path: str | Path) -> Iterator[Record]:
    """Reads a file of JSON lines; blank lines are skipped.

    Raises:
      ValueError: naming file and line, the key that is wrong, and what it must be.
    """
    stem = Path(path).stem
    for number, data in reading.read_json_lines(path):
        yield _record(data, f"{stem}-{number}", f"{path}:{number}")


def _record(data: Mapping[str, Any], identity: str, where: str) -> Record:
    for key in ("task", "input", "output"):
        reading.string(data, key, where)
    options = reading.strings(data, "options", where) if data.get("options") else ()
    choices = tuple(dict.fromkeys(options))
    if choices and data["output"] not in choices:
        raise ValueError(f"{where}: the output {data['output']!r:.80} is not one of the options.")
    return Record(
        id=identity,
        task=data["task"],
        input=data["input"],
        targets=(data["output"],),
        answer_choices=choices if len(choices) > 1 else None,
        benchmark="metaicl",
        # Macro-F1 for classification (tasks whose examples share their options), else accuracy.
        metric_names=("rank_macro_f1_mean", "rank_accuracy_mean") if choices else ("exact_match",),
    )
