"""How often Flan 2022 draws which task: five sub-mixtures of families of tasks.

    flan2022  .40 flan2021   zs_opt = fs_opt = zs_noopt = fs_noopt        30,000 per task at most
              .32 t0         the same                                     20,000
              .20 niv2       zs_opt = fs_opt                               5,000
              .05 cot        zs_opt = fs_opt, each 1 : 0.3 inverted      100,000
              .03 dialog     the same                                    200,000

Inside, rates are examples-proportional with the cap. A few-shot task with options is there twice
(`fs_opt_mix`, `fs_opt_x`), each with a cap of its own. Source: `mixtures.py`, `mixtures_utils.py`
and `run_example.py` of FLAN v2; the examples per task are the authors' table `v2_num_cases.json`.

    tree = mixture(tables)
    rates.flat(rates.resolve(tree))          # "flan2022_rte_zs_opt": 0.0004…
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from ul2tune.data.rates import Fixed, Group, Leaf, Node, Proportional
from ul2tune.instructions.flan.flan2022 import (
    CASES,
    NIV2,
    T0_PREFIX,
    Family,
    SubMixture,
    Tables,
    t0_tasks,
)

RATES: Mapping[str, float] = {"flan2021": 0.4, "t0": 0.32, "niv2": 0.2, "cot": 0.05, "dialog": 0.03}
CAPS: Mapping[str, int] = {
    "flan2021": 30_000,
    "t0": 20_000,
    "niv2": 5_000,
    "cot": 100_000,
    "dialog": 200_000,
}
INVERSION_RATE = 0.3  # to 1 of the task the right way round
_VARIANTS: Mapping[str, tuple[Family, ...]] = {
    "zs_opt": ("zs_opt",),
    "fs_opt": ("fs_opt_mix", "fs_opt_x"),
    "zs_noopt": ("zs_noopt",),
    "fs_noopt": ("fs_noopt_x",),
}
_WITH_NOOPT = ("flan2021", "t0")
_COT_SETS = ("cot", "stream")


@dataclass(frozen=True, kw_only=True)
class Member:
    """A task in a sub-mixture, in one family.

    Attributes:
      sub_mixture: "flan2021", "t0", "niv2", "cot", "cot_ii", "dialog" or "dialog_ii".
      task: its key in `v2_num_cases.json`.
      family: how it is rendered.
    """

    sub_mixture: SubMixture
    task: str
    family: Family


# Names a member as a SeqIO task (or gives the group of tasks it consists of); None = not there.
MakeNode = Callable[[Member, int], Node | None]


def members(tables: Tables) -> dict[SubMixture, tuple[str, ...]]:
    """The tasks of each sub-mixture, by their keys in `num_cases`."""
    t0 = {T0_PREFIX + name for name in t0_tasks(tables.t0)}
    found: dict[SubMixture, list[str]] = {
        "flan2021": [],
        "t0": [],
        "niv2": [],
        "cot": [],
        "cot_ii": [],
        "dialog": [],
        "dialog_ii": [],
    }
    for task in tables.num_cases:
        inverted = "_input_inversion" in task
        if task.startswith(T0_PREFIX):
            if task in t0:
                found["t0"].append(task)
        elif task == NIV2:
            found["niv2"].append(task)
        elif task.partition("_")[0] in _COT_SETS:
            found["cot_ii" if inverted else "cot"].append(task)
        elif task.startswith(("wiki_dialog", "qrecc")):
            found["dialog_ii" if inverted else "dialog"].append(task)
        else:
            found["flan2021"].append(task)
    return {name: tuple(tasks) for name, tasks in found.items()}


def leaf_name(member: Member, prefix: str = "flan2022") -> str:
    """The SeqIO task of a member.

    >>> leaf_name(Member(sub_mixture="flan2021", task="rte", family="zs_opt"))
    'flan2022_rte_zs_opt'
    """
    task = member.task.replace(T0_PREFIX, "t0_")
    slug = "".join(c if c.isalnum() or c in "_." else "_" for c in task)
    return f"{prefix}_{slug}_{member.family}"


def default_node(member: Member, examples: int) -> Leaf:
    """A leaf with the authors' number of examples."""
    return Leaf(name=leaf_name(member), examples=examples)


def mixture(tables: Tables, make_node: MakeNode = default_node, name: str = "flan2022") -> Group:
    """The tree of the mixture.

    Args:
      tables: task tables and examples per task.
      make_node: (member, examples) -> node. Where it gives None the member is left out; what is
        left of a group divides the group's share, and a sub-mixture without any loses its own.
      name: of the root.

    Raises:
      ValueError: if nothing is left.
    """
    tasks = members(tables)
    children = []
    for sub in RATES:
        groups = []
        for variant in _VARIANTS if sub in _WITH_NOOPT else ("zs_opt", "fs_opt"):
            if f"{sub}_ii" in tasks:
                plain = _capped(f"{variant}_plain", variant, sub, tables, make_node)
                inverted = _capped(f"{variant}_ii", variant, f"{sub}_ii", tables, make_node)
                pair = [(p, w) for p, w in ((plain, 1.0), (inverted, INVERSION_RATE)) if p]
                group = _fixed(variant, pair) if pair else None
            else:
                group = _capped(variant, variant, sub, tables, make_node)
            if group is not None:
                groups.append((group, 1.0))
        if groups:
            children.append((_fixed(sub, groups), RATES[sub]))
    if not children:
        raise ValueError(f"Mixture {name!r}: no task of Flan 2022 is there.")
    return _fixed(name, children)


def _capped(name: str, variant: str, sub: str, tables: Tables, make_node: MakeNode) -> Group | None:
    """The tasks of one sub-mixture in one variant, examples-proportional with its cap."""
    nodes = []
    for task in members(tables)[sub]:  # type: ignore[index]
        for family in _VARIANTS[variant]:
            member = Member(sub_mixture=sub, task=task, family=family)  # type: ignore[arg-type]
            node = make_node(member, tables.num_cases[task][CASES[family]])
            if node is not None:
                nodes.append(node)
    policy = Proportional(cap=CAPS[sub.removesuffix("_ii")])
    return Group(name=name, children=tuple(nodes), policy=policy) if nodes else None


def _fixed(name: str, children: Sequence[tuple[Node, float]]) -> Group:
    weights = {child.name: weight for child, weight in children}
    return Group(name=name, children=tuple(c for c, _ in children), policy=Fixed(weights=weights))
