"""The tree of a mixture as a table: what is drawn how often, and how often that repeats it.

   rate     examples        tokens   epochs  mixture
100.00%       52,100     9,300,000           flan_ul2, fixed
 90.00%       50,000     4,200,000           ├─ flan, proportional, cap=3000
 30.00%        1,000       100,000     9.60  │  ├─ rte
 60.00%       49,000     4,100,000     0.39  │  └─ squad
 10.00%        2,100     5,100,000     0.06  └─ ul2_stdlib
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from ul2tune.cli.shown import HINT, divide
from ul2tune.data.manifest import MixtureManifest, TaskManifest
from ul2tune.data.rates import Share, flat, share_leaves

HEADER = "    rate     examples         tokens    epochs  mixture"


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How much of a mixture a run will see.

    Attributes:
      steps, batch_size: of the run.
      segments_per_row: as measured.
      raw_tokens: measured mean of a segment of running text, by task.
    """

    steps: int
    batch_size: int
    segments_per_row: float
    raw_tokens: Mapping[str, float]

    @property
    def draws(self) -> float:
        """Examples or segments of the whole run."""
        return self.steps * self.batch_size * self.segments_per_row

    def epochs(self, rate: float, task: TaskManifest) -> float | None:
        """How often the run goes through a task; running text counts by its tokens."""
        if task.online is None:
            return self.draws * rate / task.num_examples if task.num_examples else None
        tokens = num_tokens(task)
        mean = self.raw_tokens.get(task.task)
        return self.draws * rate * mean / tokens if mean and tokens else None


def make_plan(stats: Mapping[str, float], steps: int, batch_size: int) -> Plan:
    """A plan from what a feed measured (`Feed.stats`)."""
    segments: dict[str, float] = {}
    tokens: dict[str, float] = {}
    for key, value in stats.items():
        kind, _, source = key.partition("/")
        task = source.partition("/")[0]
        if kind in ("segments", "raw_tokens") and source:
            table = segments if kind == "segments" else tokens
            table[task] = table.get(task, 0.0) + value
    return Plan(
        steps=steps,
        batch_size=batch_size,
        segments_per_row=stats["segments"] / max(1.0, stats["rows"]),
        raw_tokens={task: tokens[task] / n for task, n in segments.items() if n},
    )


def tree_of(mixture: MixtureManifest, tasks: Mapping[str, TaskManifest]) -> Share:
    """The mixture's tree; flat where an older version prepared it."""
    if mixture.tree is not None:
        return Share.from_json(mixture.tree)
    children = tuple(
        Share(name=name, rate=rate, weight=rate, examples=tasks[name].num_examples)
        for name, rate in zip(mixture.tasks, mixture.rates, strict=True)
    )
    examples = sum(task.num_examples for task in tasks.values())
    return Share(name=mixture.name, rate=1.0, weight=1.0, examples=examples, children=children)


def drawn(tree: Share, tasks: Mapping[str, TaskManifest]) -> Share:
    """The tree as a run draws from it (`feed.sources.Sources.rates`): tasks without examples give
    up their rates, and those of all others grow in proportion. As it is where none has examples,
    which a feed refuses.

    Args:
      tree: the mixture.
      tasks: the manifests of all that are to be drawn.
    """
    rates = flat(tree)
    left = [rate for name, rate in rates.items() if tasks[name].num_examples]
    if len(left) in (0, len(rates)):
        return tree
    return _grown(tree, tasks, 1.0 / sum(left))


def _grown(share: Share, tasks: Mapping[str, TaskManifest], factor: float) -> Share:
    children = tuple(_grown(child, tasks, factor) for child in share.children)
    if children:
        rate = sum(child.rate for child in children)
    else:
        empty = share.rate == 0 or not tasks[share.name].num_examples
        rate = 0.0 if empty else share.rate * factor
    return replace(share, rate=rate, children=children)


def lines(
    tree: Share,
    tasks: Mapping[str, TaskManifest],
    plan: Plan | None,
    in_use: Mapping[str, TaskManifest] | None = None,
    most: int | None = None,
) -> Iterator[str]:
    """The table, a line per node.

    Args:
      tree: the mixture.
      tasks: the manifests by task; tasks that are never drawn may be absent.
      plan: of the run; None leaves the epochs out.
      in_use: the manifests as the run sees them, if it does not use all examples: what epochs are
        of.
      most: branches of each mixture to show; None = all.
    """
    yield HEADER
    rates, read = flat(tree), in_use or tasks
    epochs = {
        name: plan.epochs(rate, read[name]) for name, rate in rates.items() if plan is not None
    }
    yield from _lines(_folded(tree, most), tasks, epochs, ("", ""), "")


@dataclass(frozen=True, kw_only=True)
class _Folded(Share):
    """Branches of one mixture that share a line."""


def _folded(share: Share, most: int | None) -> Share:
    shown, left = divide(share.children, lambda child: child.rate, most)
    children = [_folded(child, most) for child in shown]
    if left:
        fold = _Folded(
            name=f"{len(left):,} more of lower rates ({HINT})",
            rate=sum(child.rate for child in left),
            weight=sum(child.weight for child in left),
            examples=sum(child.examples or 0 for child in left),
            children=tuple(left),
        )
        children.append(fold)
    return replace(share, children=tuple(children))


def _lines(
    share: Share,
    tasks: Mapping[str, TaskManifest],
    epochs: Mapping[str, float | None],
    marks: tuple[str, str],
    parent: str,
) -> Iterator[str]:
    own, below = marks
    tokens = sum(
        num_tokens(tasks[n]) for n in {leaf.name for leaf in share_leaves(share)} & {*tasks}
    )
    epoch = None if share.children else epochs.get(share.name)
    columns = (
        f"{share.rate:8.2%}",
        f"{share.examples:>12,}" if share.examples is not None else f"{'?':>12}",
        f"{tokens:>14,}",
        f"{epoch:>9,.2f}" if epoch is not None else " " * 9,
    )
    name = share.name.removeprefix(f"{parent}.") + (f", {share.policy}" if share.policy else "")
    yield f"{' '.join(columns)}  {own}{name}"
    for number, child in enumerate(() if isinstance(share, _Folded) else share.children, start=1):
        last = number == len(share.children)
        ahead = (below + ("└─ " if last else "├─ "), below + ("   " if last else "│  "))
        yield from _lines(child, tasks, epochs, ahead, share.name)


def num_tokens(task: TaskManifest) -> int:
    """Prepared tokens of all features."""
    return sum(facts["tokens"] for facts in task.features.values())
