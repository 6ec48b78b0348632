"""Trees of rates: every policy, nesting, what sizes mean, errors, and drawing at these rates."""

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ul2tune.data import mixing, rates, rng
from ul2tune.data.rates import Equal, Fixed, Group, Leaf, Proportional


def group(policy, *sizes, **options):
    leaves = tuple(Leaf(name=f"t{i}", examples=n) for i, n in enumerate(sizes))
    return Group(name="g", children=leaves, policy=policy, **options)


def shares(policy, *sizes):
    return [child.rate for child in rates.resolve(group(policy, *sizes)).children]


def test_policies():
    assert shares(Proportional(), 1, 3) == [0.25, 0.75]
    assert shares(Proportional(cap=100), 50, 100, 9000) == [0.2, 0.4, 0.4]
    assert shares(Proportional(temperature=2), 100, 900) == [0.25, 0.75]
    assert shares(Proportional(temperature=2, cap=400), 100, 9000) == pytest.approx([1 / 3, 2 / 3])
    assert shares(Proportional(scale=2, cap=100), 10, 90) == pytest.approx([20 / 120, 100 / 120])
    assert shares(Equal(), 7, 0, 70) == [0.5, 0, 0.5]
    assert shares(Fixed(weights={"t0": 3, "t1": 1}), 7, 9) == [0.75, 0.25]


def test_caps_by_category_and_by_name():
    tree = Group(
        name="g",
        policy=Proportional(cap=10, caps={"qa": 30, "b": 40}),
        children=(
            Leaf(name="a", examples=100, category="qa"),
            Leaf(name="b", examples=100, category="qa"),
            Leaf(name="c", examples=100, category="nli"),
            Leaf(name="d", examples=20, category="qa"),
        ),
    )
    assert rates.weights(tree) == [30, 40, 10, 20]


def nested(size: Any = "examples"):
    inner = Group(
        name="inner",
        children=(Leaf(name="x", examples=100), Leaf(name="y", examples=900)),
        policy=Proportional(cap=300),
        size=size,
    )
    return Group(name="mix", children=(inner, Leaf(name="z", examples=500)))


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ("examples", [1000 / 1500 / 4, 1000 / 1500 * 3 / 4, 500 / 1500]),
        ("weights", [100 / 900, 300 / 900, 500 / 900]),
        ("largest", [900 / 1400 / 4, 900 / 1400 * 3 / 4, 500 / 1400]),
    ],
)
def test_a_groups_size(size, expected):
    found = rates.flat(rates.resolve(nested(size)))
    assert list(found) == ["x", "y", "z"]
    assert list(found.values()) == pytest.approx(expected)


def test_a_leaf_in_two_places_adds_up_and_counts_come_from_outside():
    left = Group(name="l", children=(Leaf(name="a"), Leaf(name="b")))
    right = Group(name="r", children=(Leaf(name="a"), Leaf(name="c", examples=10)))
    tree = Group(name="m", children=(left, right), policy=Fixed(weights={"l": 1, "r": 1}))
    found = rates.flat(rates.resolve(tree, {"a": 10, "b": 30, "c": 5}))
    assert found == {"a": 0.375, "b": 0.375, "c": 0.25}
    assert [leaf.name for leaf in rates.leaves(tree)] == ["a", "b", "a", "c"]
    assert [g.name for g in rates.groups(tree)] == ["l", "r", "m"]


def test_what_has_no_share_may_be_empty():
    empty = Group(name="empty", children=(Leaf(name="a", examples=0),))
    tree = Group(name="m", children=(empty, Leaf(name="b", examples=1)))
    assert rates.flat(rates.resolve(tree)) == {"b": 1.0}


def test_a_subset_keeps_the_ratios_of_the_rest():
    tree = Group(
        name="m",
        children=(nested(), Leaf(name="p"), Leaf(name="q")),
        policy=Fixed(weights={"mix": 2, "p": 1, "q": 1}),
    )
    kept = rates.subset(tree, lambda leaf: leaf.name in "zq")
    assert kept is not None
    assert rates.flat(rates.resolve(kept)) == pytest.approx({"z": 2 / 3, "q": 1 / 3})
    assert rates.subset(tree, lambda leaf: False) is None


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Proportional(cap=0), "cap must be positive"),
        (lambda: Proportional(temperature=-1), "temperature must be positive"),
        (lambda: Fixed(weights={"a": -1.0}), "weight of 'a' must be 0 or more"),
        (lambda: Group(name="g", children=()), "has no children"),
        (lambda: group(Equal(), 1, size="most"), "has size 'most'"),
        (lambda: Group(name="g", children=(Leaf(name="a"),) * 2), "two children called 'a'"),
        (lambda: shares(Fixed(weights={"t0": 1}), 1, 2), "'t1' has no weight"),
        (lambda: shares(Fixed(weights={"t0": 1, "u": 1}), 1), "'u' has a weight, but is not there"),
        (lambda: shares(Fixed(weights={"t0": 1}), 0), "'t0' is to get 1 and has no examples"),
        (lambda: shares(Proportional(), 0, 0), "Group 'g' of the mixture has nothing to draw"),
        (lambda: shares(Proportional(), None), "number of examples of 't0' is not known"),
    ],
)
def test_errors(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_json():
    text = """{"name": "flan", "policy": {"kind": "fixed", "weights": {"rte": 1, "qa": 3}},
      "children": [{"name": "rte", "category": "nli"},
        {"name": "qa", "policy": "equal", "size": "weights", "children": [
          {"name": "squad", "examples": 5}, {"name": "boolq"}]}]}"""
    tree = rates.from_json(json.loads(text))
    found = rates.resolve(tree, {"rte": 1, "boolq": 2})
    assert rates.flat(found) == {"rte": 0.25, "squad": 0.375, "boolq": 0.375}
    assert json.loads(json.dumps(found.to_json())) == found.to_json()
    assert rates.Share.from_json(found.to_json()) == found


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ([], "mix.json: a node must be an object with a 'name'"),
        ({"name": "a", "sise": 1}, "mix.json/a: got an unexpected keyword argument 'sise'"),
        ({"name": "a", "children": 3}, "mix.json/a: 'children' must be a list"),
        (
            {"name": "a", "children": [{"name": "b", "policy": "most", "children": []}]},
            "mix.json/a/b: policy 'most' is not one of proportional, fixed, equal",
        ),
        (
            {"name": "a", "policy": {"kind": "proportional", "cap": -1}, "children": []},
            "mix.json/a: policy 'proportional': Proportional.cap must be positive",
        ),
    ],
)
def test_json_errors_name_the_node(data, message):
    with pytest.raises(ValueError, match=message.replace("(", r"\(")):
        rates.from_json(data, "mix.json")


sizes = st.lists(st.integers(1, 10**6), min_size=1, max_size=6)


@settings(deadline=None, max_examples=50, derandomize=True)
@given(trees=st.lists(sizes, min_size=1, max_size=4), cap=st.integers(1, 10**5))
def test_shares_add_up(trees, cap):
    children = tuple(
        Group(
            name=f"c{i}",
            policy=Proportional(cap=cap, temperature=1 + i),
            size=rates.SIZES[i % 3],
            children=tuple(Leaf(name=f"c{i}t{j}", examples=n) for j, n in enumerate(counts)),
        )
        for i, counts in enumerate(trees)
    )
    share = rates.resolve(Group(name="m", children=children))
    assert sum(rates.flat(share).values()) == pytest.approx(1)
    for child in share.children:
        assert sum(c.rate for c in child.children) == pytest.approx(child.rate)


def test_draws_follow_the_effective_rates_within_three_sigma():
    expected = rates.flat(rates.resolve(nested("weights")))
    number = 200_000
    drawn = mixing.draw_tasks(rng.fold_in(3, np.arange(number)), list(expected.values()))
    counts = np.bincount(drawn, minlength=3)
    p = np.array(list(expected.values()))
    assert np.all(np.abs(counts - number * p) < 3 * np.sqrt(number * p * (1 - p)))
