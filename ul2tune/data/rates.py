"""How often each task of a mixture is drawn: a tree of collections, tasks and templates.

    mixture ── collection ── task ── template
       │           │           │
    Fixed(…)  Proportional(cap)  Equal()          each divides its own share among its children

A *leaf* is what examples are drawn from (a SeqIO task), with its number of examples; an inner node
is a *group* with a policy. A policy sees its children's sizes and gives them weights; the shares
of the mixture follow from the root down, so hierarchical mixing is nothing but nesting:

    tree = Group(name="mix", policy=Fixed(weights={"flan": 0.4, "notes": 0.6}), children=(
        Group(name="flan", policy=Proportional(cap=3000), children=(
            Leaf(name="rte", examples=2490), Leaf(name="squad", examples=87599))),
        Leaf(name="notes")))
    flat(resolve(tree, {"notes": 800}))    # {"rte": 0.1814…, "squad": 0.2185…, "notes": 0.6}
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

from ul2tune.data.policies import (
    Child,
    Equal,
    Fixed,
    Policy,
    Proportional,
    describe,
    policy_from_json,
)

__all__ = ["Equal", "Fixed", "Group", "Leaf", "Node", "Proportional", "Share", "flat", "resolve"]

# What a group counts as for the policy above it.
SIZES = ("examples", "weights", "largest")
# Examples by leaf: a mapping, or a function that may say None for "not known".
Counts = Mapping[str, int] | Callable[[str], int | None]


@dataclass(frozen=True, kw_only=True)
class Leaf:
    """A task (or a task in one template) that examples are drawn from.

    Attributes:
      name: the SeqIO task's.
      examples: their number; None = as counted when the data is prepared.
      category: for `Proportional.caps`.
    """

    name: str
    examples: int | None = None
    category: str = ""


@dataclass(frozen=True, kw_only=True)
class Group:
    """An inner node.

    Attributes:
      name: unique among the children of one group.
      children: leaves and groups.
      policy: how the group's share is divided.
      category: for `Proportional.caps` of the group above.
      size: what the policy above takes for this group's size: "examples", those of all its leaves
        (as SeqIO); "weights", what its own policy gives its children together (for proportions
        *after* caps); "largest", the examples of its largest child (templates that render the
        same examples count once).
    """

    name: str
    children: tuple[Node, ...]
    policy: Policy = field(default_factory=Proportional)
    category: str = ""
    size: Literal["examples", "weights", "largest"] = "examples"

    def __post_init__(self) -> None:
        if not self.children:
            raise ValueError(f"Group {self.name!r} of a mixture has no children.")
        if self.size not in SIZES:
            raise ValueError(f"Group {self.name!r} has size {self.size!r}: use one of {SIZES}.")
        names = [child.name for child in self.children]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"Group {self.name!r} has two children called {twice[0]!r}.")


Node = Leaf | Group


@dataclass(frozen=True, kw_only=True)
class Share:
    """A resolved node: what the tree comes to.

    Attributes:
      name: the node's.
      rate: its share of the whole mixture.
      weight: what the policy above gave it.
      examples: distinct examples below it; None = not known.
      policy: in words; empty for a leaf.
      children: in the tree's order.
    """

    name: str
    rate: float
    weight: float
    examples: int | None
    policy: str = ""
    children: tuple[Share, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return asdict(self) | {"children": [child.to_json() for child in self.children]}

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> Share:
        values = dict(data)
        values["children"] = tuple(Share.from_json(child) for child in values["children"])
        return Share(**values)


def resolve(tree: Node, counts: Counts | None = None) -> Share:
    """The shares of every node; those of the leaves add up to 1.

    Args:
      tree: the mixture.
      counts: examples of leaves that do not state them.

    Raises:
      ValueError: naming the group whose policy does not fit, or that has nothing to draw from.
    """
    return _share(tree, counts or {}, 1.0, 1.0)


def flat(share: Share) -> dict[str, float]:
    """Rate by leaf in the order of the tree; those of a leaf in several places are added, and
    leaves that are never drawn are left out.
    """
    rates: dict[str, float] = {}
    for leaf in share_leaves(share):
        if leaf.rate > 0:
            rates[leaf.name] = rates.get(leaf.name, 0.0) + leaf.rate
    return rates


def share_leaves(share: Share) -> Iterator[Share]:
    """The resolved leaves from left to right."""
    if not share.children:
        yield share
    for child in share.children:
        yield from share_leaves(child)


def leaves(tree: Node) -> Iterator[Leaf]:
    """The leaves from left to right."""
    if isinstance(tree, Leaf):
        yield tree
    else:
        for child in tree.children:
            yield from leaves(child)


def groups(tree: Node) -> Iterator[Group]:
    """The groups, every one after those it holds."""
    if isinstance(tree, Group):
        for child in tree.children:
            yield from groups(child)
        yield tree


def subset(tree: Group, keep: Callable[[Leaf], bool]) -> Group | None:
    """The tree without the leaves that are not to be kept, and without what they leave empty.

    `Fixed` weights of what is gone go with it, so the others grow in proportion.
    """
    children: list[Node] = []
    for child in tree.children:
        kept = subset(child, keep) if isinstance(child, Group) else child if keep(child) else None
        if kept is not None:
            children.append(kept)
    if not children:
        return None
    policy = tree.policy
    if isinstance(policy, Fixed):
        names = {child.name for child in children}
        policy = Fixed(weights={n: w for n, w in policy.weights.items() if n in names})
    return replace(tree, children=tuple(children), policy=policy)


def weights(group: Group, counts: Counts | None = None) -> list[float]:
    """What the group's policy gives its children.

    Raises:
      ValueError: as :func:`resolve`.
    """
    counts = counts or {}
    children = [
        Child(name=child.name, category=child.category, size=_size(child, counts))
        for child in group.children
    ]
    try:
        found = group.policy.divide(children)
    except ValueError as error:
        raise ValueError(f"Group {group.name!r} of the mixture: {error}.") from error
    if not any(found):
        raise ValueError(
            f"Group {group.name!r} of the mixture has nothing to draw from: its children "
            f"{', '.join(child.name for child in children)} have no examples or no weight."
        )
    return found


def num_examples(node: Node, counts: Counts | None = None) -> int | None:
    """Distinct examples below a node; None where a leaf's are not known."""
    counts = counts or {}
    if isinstance(node, Leaf):
        if node.examples is not None:
            return node.examples
        return counts(node.name) if callable(counts) else counts.get(node.name)
    found = [num_examples(child, counts) for child in node.children]
    if any(n is None for n in found):
        return None
    known = [n for n in found if n is not None]
    return max(known) if node.size == "largest" else sum(known)


def from_json(data: Any, where: str = "mixture") -> Node:
    """A tree from plain JSON values, so that mixtures can be files.

        {"name": "flan", "policy": {"kind": "proportional", "cap": 3000},
         "children": [{"name": "rte"}, {"name": "squad", "examples": 87599}]}

    Args:
      data: the parsed file.
      where: starts error messages.

    Raises:
      ValueError: naming the node and what is wrong with it.
    """
    if not isinstance(data, Mapping) or not isinstance(data.get("name"), str):
        raise ValueError(f"{where}: a node must be an object with a 'name', got {data!r:.80}.")
    where = f"{where}/{data['name']}"
    values = dict(data)
    if "children" in values:
        children = values["children"]
        if not isinstance(children, list | tuple):
            raise ValueError(f"{where}: 'children' must be a list, got {children!r:.80}.")
        values["children"] = tuple(from_json(child, where) for child in children)
    if "policy" in values:
        values["policy"] = policy_from_json(values["policy"], where)
    try:
        return Group(**values) if "children" in values else Leaf(**values)
    except TypeError as error:
        raise ValueError(f"{where}: {str(error).partition(') ')[2] or error}.") from error


def _share(node: Node, counts: Counts, rate: float, weight: float) -> Share:
    examples = num_examples(node, counts)
    if isinstance(node, Leaf):
        return Share(name=node.name, rate=rate, weight=weight, examples=examples)
    # Nothing below a group without a share is drawn, so it may be empty.
    below = weights(node, counts) if rate > 0 else [0.0] * len(node.children)
    total = sum(below) or 1.0
    return Share(
        name=node.name,
        rate=rate,
        weight=weight,
        examples=examples,
        policy=describe(node.policy),
        children=tuple(
            _share(child, counts, rate * own / total, own)
            for child, own in zip(node.children, below, strict=True)
        ),
    )


def _size(node: Node, counts: Counts) -> float | None:
    if isinstance(node, Group) and node.size == "weights":
        return sum(weights(node, counts)) if num_examples(node, counts) != 0 else 0.0
    return num_examples(node, counts)
