"""Registering a tree of rates (`ul2tune.data.rates`) as nested SeqIO mixtures.

    register_mixture(Group(name="mine", policy=Fixed(weights={"flan": 0.9, "ul2_stdlib": 0.1}),
                           children=(flan, Leaf(name="ul2_stdlib"))))

Every group becomes a `seqio.Mixture`, the inner ones called ``mine.flan``; a leaf is a registered
task, or another mixture, which then divides its share itself. Plain SeqIO sees the same rates as
`ul2tune prepare`: they are computed when SeqIO asks for them, from the examples that are prepared
(or in SeqIO's own cache) by then.
"""

from __future__ import annotations

import functools
import numbers
from collections.abc import Callable

import seqio

from ul2tune.data import manifest, rates
from ul2tune.data.rates import Fixed, Group, Leaf
from ul2tune.prepare.rates import POLICIES


def register_mixture(tree: Group, *, data_dir: str | None = None) -> seqio.Mixture:
    """Registers a tree.

    Leaves that state `examples` keep them, the others have those of their task's ``train`` split.

    Args:
      tree: the root's name becomes the mixture's.
      data_dir: where `ul2tune prepare` wrote: for plain SeqIO programs, which otherwise know the
        sizes of tasks only from their own cache or source.

    Returns:
      the registered mixture.

    Raises:
      ValueError: if a leaf is no registered task or mixture, or a name is taken.
    """
    return _register(tree, tree.name, data_dir)


def register_with_text(name: str, instructions: str, text: str, percent: float) -> seqio.Mixture:
    """Registers instructions with a share of running text (UL2 denoising or language modelling).

    Args:
      name: of the mixture.
      instructions: a registered mixture or task; it keeps its own rates.
      text: a registered text task (`prepare.tasks.register_text_task`).
      percent: of the draws that are of the text.

    Raises:
      ValueError: if `percent` is not between 0 and 100.
    """
    if not 0.0 < percent < 100.0:
        raise ValueError(
            f"Mixture {name!r}: the text's percent must be in (0, 100), got {percent}."
        )
    weights = {instructions: 100.0 - percent, text: percent}
    children = (Leaf(name=instructions), Leaf(name=text))
    return register_mixture(Group(name=name, children=children, policy=Fixed(weights=weights)))


def count_examples(name: str, data_dir: str | None = None) -> int | None:
    """Training examples of a task or mixture: those of SeqIO's cache, of the manifests in
    `data_dir`, or of the source; None if none of them knows.
    """
    provider = seqio.get_mixture_or_task(name)
    counts = [_count(task, data_dir) for task in seqio.get_subtasks(provider)]
    known = [count for count in counts if count is not None]
    return sum(known) if len(known) == len(counts) else None


def _count(task: seqio.Task, data_dir: str | None) -> int | None:
    if task.cache_dir:
        return int(task.get_cached_stats("train")["examples"])
    if "train" not in task.splits:
        return 0
    if data_dir is not None:
        return manifest.read_task(data_dir, task.name, "train").num_examples
    return task.num_input_examples("train")


def _register(group: Group, name: str, data_dir: str | None) -> seqio.Mixture:
    known = {*seqio.TaskRegistry.names(), *seqio.MixtureRegistry.names()}
    if name in known:
        raise ValueError(f"There is a task or mixture {name!r} already; name the group otherwise.")
    names = []
    for child in group.children:
        if isinstance(child, Group):
            names.append(_register(child, f"{name}.{child.name}", data_dir).name)
        elif child.name in known:
            names.append(child.name)
        else:
            raise ValueError(
                f"Leaf {child.name!r} of mixture {name!r} is no registered task or mixture: import "
                "the module that registers it first."
            )
    weights = _Weights(group, functools.partial(count_examples, data_dir=data_dir))
    POLICIES[name] = rates.describe(group.policy)
    stated = group.policy.weights if isinstance(group.policy, Fixed) else {}
    rates_of = [
        Rate(weights, index, stated.get(child.name)) for index, child in enumerate(group.children)
    ]
    return seqio.MixtureRegistry.add(name, list(zip(names, rates_of, strict=True)))


class _Weights:
    """A group's weights, computed once for every set of caches that SeqIO looks into."""

    def __init__(self, group: Group, count: Callable[[str], int | None]):
        self._group, self._count = group, count
        self._found: dict[tuple[str, ...], list[float]] = {}

    def __call__(self) -> list[float]:
        key = tuple(map(str, seqio.get_global_cache_dirs()))
        if key not in self._found:
            self._found = {key: rates.weights(self._group, self._count)}
        return self._found[key]


@numbers.Number.register
class Rate:
    """A rate that is not known yet: SeqIO wants a number for a sub-mixture, which it converts to
    float whenever it needs it.

    Args:
      weights: of all children.
      index: which child this is.
      stated: what it will be, where that does not depend on sizes.

    Attributes:
      stated: the argument.
    """

    def __init__(self, weights: Callable[[], list[float]], index: int, stated: float | None):
        self._weights, self._index, self.stated = weights, index, stated

    def __float__(self) -> float:
        return self._weights()[self._index]

    def __repr__(self) -> str:
        return f"Rate({float(self)})"
