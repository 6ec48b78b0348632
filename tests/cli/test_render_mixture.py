"""The tree of a mixture: columns, epochs of examples and of running text, nesting."""

import textwrap

import pytest

from ul2tune.cli import render_mixture
from ul2tune.data import rates
from ul2tune.data.manifest import MixtureManifest, TaskManifest
from ul2tune.data.rates import Equal, Fixed, Group, Leaf

STATS = {
    "rows": 10,
    "segments": 40,
    "segments/rte": 20,
    "segments/text/R": 8,
    "segments/text/S": 12,
    "raw_tokens": 9000,
    "raw_tokens/rte": 3000,
    "raw_tokens/text/R": 2000,
    "raw_tokens/text/S": 4000,
}


def task(name, examples, tokens, online=None):
    return TaskManifest(
        task=name,
        split="train",
        shards=(),
        num_examples=examples,
        features={"targets": {"tokens": tokens}},
        vocabulary={},
        fingerprint="",
        online=online,
    )


TASKS = {"rte": task("rte", 100, 2000), "text": task("text", 7, 600_000, {"kind": "ul2"})}


def test_the_table():
    inner = Group(name="mix.flan", children=(Leaf(name="rte"),), policy=Equal())
    tree = Group(
        name="mix",
        children=(inner, Leaf(name="text")),
        policy=Fixed(weights={"mix.flan": 3, "text": 1}),
    )
    share = rates.resolve(tree, {"rte": 100, "text": 7})
    plan = render_mixture.make_plan(STATS, steps=50, batch_size=2)
    # 50 * 2 * 4 = 400 draws: 300 of rte's 100 examples; 100 of text, 300 tokens each.
    expected = """
            rate     examples         tokens    epochs  mixture
         100.00%          107        602,000            mix, fixed
          75.00%          100          2,000            ├─ flan, equal
          75.00%          100          2,000      3.00  │  └─ rte
          25.00%            7        600,000      0.05  └─ text
    """
    found = "\n".join(render_mixture.lines(share, TASKS, plan))
    assert textwrap.dedent(found) == textwrap.dedent(expected).strip("\n")


def test_without_a_plan_and_without_a_tree():
    mixture = MixtureManifest(name="m", tasks=("rte", "text"), rates=(0.25, 0.75))
    share = render_mixture.tree_of(mixture, TASKS)
    _, root, first, _ = render_mixture.lines(share, TASKS, None)
    assert root.split() == ["100.00%", "107", "602,000", "m"]
    assert first.split() == ["25.00%", "100", "2,000", "├─", "rte"]


def test_what_tasks_without_examples_give_up_goes_to_all_others():
    inner = Group(
        name="flan",
        children=(Leaf(name="rte"), Leaf(name="cb", examples=250)),  # another's count; none here
        policy=Equal(),
    )
    tree = Group(
        name="mix",
        children=(inner, Leaf(name="text")),
        policy=Fixed(weights={"flan": 3, "text": 1}),
    )
    share = rates.resolve(tree, {"rte": 100, "text": 7})
    assert render_mixture.drawn(share, TASKS | {"cb": task("cb", 250, 1)}) is share
    found = render_mixture.drawn(share, TASKS | {"cb": task("cb", 0, 0)})
    assert rates.flat(found) == pytest.approx({"rte": 0.6, "text": 0.4})
    assert [child.rate for child in found.children] == pytest.approx([0.6, 0.4])
    assert found.rate == pytest.approx(1.0)


def test_rates_stay_where_no_task_has_examples():
    """The split that `inspect` was asked for: that is the feed's to refuse."""
    share = rates.resolve(Group(name="mix", children=(Leaf(name="text"),)), {"text": 7})
    assert render_mixture.drawn(share, {"text": task("text", 0, 0)}) is share
