"""OPT-IML's prompts and mixture (Iyer et al. 2022, arXiv:2212.12017; loader: metaseq).

A prompt has two parts: the source (instruction and input, perhaps after worked examples) and the
target, the only part with loss. The text of an example is :func:`join` of the two, and its end of
sequence; register such tasks with ``eos=("targets",)`` and feed them with layout "causal_lm".

    >>> render_text("Is the sky blue?", "yes", draw=0)
    'Is the sky blue?\\nAnswer: yes'
    >>> render_text("Question: is the sky blue? Answer: ", "yes", draw=0)
    'Question: is the sky blue? Answer: yes'
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from ul2tune.data.rates import Equal, Fixed, Group, Leaf, Node, Proportional
from ul2tune.instructions.records import (
    Query,
    Record,
    RecordCorpus,
    Rendered,
    Renderer,
    stable_hash,
)

# Section 3: what stands before the answer where the prompt does not end in a colon.
DELIMITERS = (
    "\nAnswer:",
    " Answer:",
    "\nA:",
    " A:",
    "\nOutput:",
    " Output:",
    "\nanswer:",
    "\noutput:",
)
# Section 4: examples of a task that count, and the final percentages of the benchmarks.
CAP = 4096
PROPORTIONS: Mapping[str, float] = {
    "crossfit": 4,
    "exmix": 2,
    "flan": 20,
    "niv2": 25,
    "promptsource": 45,
    "t5": 2,
    "unifiedskg": 2,
}
# Percent of the instructions that are reasoning tasks, and of everything that is pretraining text.
REASONING, PRETRAINING = 1.0, 5.0
# At most so many examples of a task, all its prompts together (section 2; 30,000 for FLAN).
EXAMPLES_PER_TASK = 100_000


def join(source: str, target: str) -> str:
    """The text of an example, as metaseq's loader concatenates it; end of sequence not included."""
    return source.rstrip(" ") + " " + target.rstrip()


def delimit(prompt: str, draw: int) -> str:
    """Adds a delimiter, ``DELIMITERS[draw % 8]``, to a prompt that does not end in a colon."""
    closed = prompt.rstrip()
    return closed if closed.endswith(":") else closed + DELIMITERS[draw % len(DELIMITERS)]


def render_text(prompt: str, target: str, draw: int) -> str:
    """The text of an example without demos."""
    return join(delimit(prompt, draw), target)


def render(
    record: Record,
    seed: int,
    *,
    demos: int = 0,
    placement: Literal["task", "instance"] = "task",
    separator: str = "\n\n",
) -> Rendered:
    """Renders a record as source and target.

    With an instruction for the *task* (Super-NaturalInstructions: one definition), worked examples
    go between it and the input; with one inside every *instance* (PromptSource, FLAN: the record's
    input is the whole prompt), they go before it, each with its own:

        task       {instruction}⏎⏎{demo}{delimiter} {answer}⏎⏎{input}{delimiter}
        instance   {instruction} {demo}{delimiter} {answer}⏎⏎{instruction} {input}{delimiter}

    Args:
      record: its first positive demos are shown, in their order.
      seed: with the record's id, decides the delimiter: one for the whole prompt.
      demos: how many to show.
      placement: which kind of instruction it is.
      separator: between the parts.

    Returns:
      Text whose ``inputs + targets`` is :func:`join`: the space before the answer is the target's.
      That is how metaseq's tokenizer divides it; T5's gives the same pieces either way.
    """
    draw = stable_hash(seed, "delimiter", record.task, record.id)
    shown = [demo for demo in record.demos if not demo.negative][:demos]
    parts, own = [], ""
    if placement == "instance":
        own = record.instruction
    elif record.instruction:
        parts.append(record.instruction.strip())
    for demo in shown:
        parts.append(render_text(_instance(own, demo.input), demo.target, draw))
    parts.append(delimit(_instance(own, record.input), draw))
    return Rendered(
        inputs=separator.join(parts).rstrip(" "),
        targets=_answer(record.targets[0]),
        answer_choices=tuple(map(_answer, record.answer_choices or ())),
        demo_ids=tuple(demo.id or f"positive-{i}" for i, demo in enumerate(shown, start=1)),
    )


def delimited(render: Renderer) -> Renderer:
    """Another collection's renderer with OPT-IML's delimiter and space before the answer."""
    return functools.partial(_render_delimited, render)


def _render_delimited(render: Renderer, record: Record, seed: int) -> Rendered | None:
    rendered = render(record, seed)
    if rendered is None:  # the collection leaves this record out
        return None
    draw = stable_hash(seed, "delimiter", record.task, record.id)
    return replace(
        rendered,
        inputs=delimit(rendered.inputs, draw).rstrip(" "),
        targets=_answer(rendered.targets),
        answer_choices=tuple(map(_answer, rendered.answer_choices)),
        queries=tuple(
            Query(
                inputs=delimit(query.inputs, draw).rstrip(" "),
                targets=_answer(query.targets),
                prior=query.prior and delimit(query.prior, draw).rstrip(" "),
            )
            for query in rendered.queries
        ),
    )


def _answer(text: str) -> str:
    return " " + text.rstrip()


def _instance(instruction: str, text: str) -> str:
    return f"{instruction.rstrip()} {text}" if instruction else text


@dataclass(frozen=True, kw_only=True)
class MergedPrompts:
    """All prompts of a task as one corpus: N examples in total, each in one prompt of its own draw.

    Attributes:
      corpus: the task's records, each once.
      template_ids: of the prompts; a record's is drawn by (seed, task, id).
      limit: N.
      seed: of the draws.
    """

    corpus: RecordCorpus
    template_ids: tuple[str, ...]
    limit: int = EXAMPLES_PER_TASK
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.template_ids or self.limit < 1:
            raise ValueError(
                f"MergedPrompts needs a template and a positive limit, got {self.template_ids} "
                f"and {self.limit}."
            )

    @property
    def splits(self) -> Sequence[str]:
        """Those of the corpus."""
        return self.corpus.splits

    def read(self, split: str) -> Iterator[Record]:
        """The first `limit` records of a split with their `template_id`."""
        for number, record in enumerate(self.corpus.read(split)):
            if number == self.limit:
                return
            draw = stable_hash(self.seed, "template", record.task, record.id)
            yield replace(record, template_id=self.template_ids[draw % len(self.template_ids)])

    def fingerprint(self) -> str:
        """Changes whenever the records do."""
        return f"{self.corpus.fingerprint()}/{self.template_ids}/{self.limit}/{self.seed}"


def merged_task(name: str, templates: Sequence[str], *, category: str = "") -> Group:
    """A task whose prompts are SeqIO tasks of their own: they share the task's one count."""
    children = tuple(Leaf(name=template) for template in templates)
    return Group(name=name, children=children, policy=Equal(), size="largest", category=category)


def mixture(
    name: str,
    benchmarks: Mapping[str, Sequence[Node]],
    *,
    proportions: Mapping[str, float] = PROPORTIONS,
    cap: float | None = CAP,
    reasoning: Sequence[Node] = (),
    reasoning_percent: float = REASONING,
    pretraining: Sequence[Node] = (),
    pretraining_percent: float = PRETRAINING,
) -> Group:
    """The rates of OPT-IML over any collections: a tree for `prepare.mixtures.register_mixture`.

    Every task gets min(examples, `cap`) of its benchmark; the benchmarks get fixed percentages.
    Those of benchmarks that are not at hand are shared by the others in proportion. Reasoning takes
    its percent from the largest benchmark's share; pretraining text takes its own from everything.

    Args:
      name: of the mixture.
      benchmarks: tasks (leaves, or groups such as :func:`merged_task`) by benchmark.
      proportions: a weight for each benchmark; may name more.
      cap: EPS, the paper's "examples per set"; None = no limit.
      reasoning: reasoning tasks; empty = none, and nothing is taken.
      reasoning_percent: of the instructions.
      pretraining: text tasks with loss on all tokens; empty = none.
      pretraining_percent: of the mixture.

    Raises:
      ValueError: if a benchmark has no proportion or no tasks, or a percentage is out of range.
    """
    if not benchmarks:
        raise ValueError(f"Mixture {name!r} has no benchmarks.")
    for benchmark, tasks in benchmarks.items():
        if benchmark not in proportions or not tasks:
            raise ValueError(
                f"Benchmark {benchmark!r} of mixture {name!r} has no "
                f"{'tasks' if benchmark in proportions else 'proportion'}; proportions are "
                f"{dict(proportions)}."
            )
    total = sum(proportions[benchmark] for benchmark in benchmarks)
    weights = {b: 100.0 * proportions[b] / total for b in benchmarks}
    children = {b: _benchmark(b, tasks, cap) for b, tasks in benchmarks.items()}
    if reasoning:
        largest = max(weights, key=lambda b: weights[b])
        _check_percent("reasoning_percent", reasoning_percent, weights[largest])
        weights[largest] -= reasoning_percent
        weights["reasoning"] = reasoning_percent
        children["reasoning"] = _benchmark("reasoning", reasoning, cap)
    if pretraining:
        _check_percent("pretraining_percent", pretraining_percent, 100.0)
        weights = {b: w * (100.0 - pretraining_percent) / 100.0 for b, w in weights.items()}
        weights["pretraining"] = pretraining_percent
        children["pretraining"] = _benchmark("pretraining", pretraining, None)
    return Group(name=name, children=tuple(children.values()), policy=Fixed(weights=weights))


def _benchmark(name: str, tasks: Sequence[Node], cap: float | None) -> Group:
    return Group(name=name, children=tuple(tasks), policy=Proportional(cap=cap))


def _check_percent(name: str, percent: float, below: float) -> None:
    if not 0 < percent < below:
        raise ValueError(f"{name} must be between 0 and {below:g}, got {percent:g}.")
