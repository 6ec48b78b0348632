"""The choices of the packing policies on cases small enough to check by hand."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ul2tune.data import packing

# Three draws of one row: a pair that fills 100/50 exactly, and one that does not help.
COSTS = [  # inputs low, high, targets low, high
    (30, 60, 5, 10),
    (40, 80, 20, 45),
    (70, 90, 30, 40),
]


def window(costs, *, age=None, first=False):
    columns = np.array(costs, np.float64).T[:, None, :]
    return packing.Window(
        costs=packing.Costs(
            inputs_low=columns[0],
            inputs_high=columns[1],
            targets_low=columns[2],
            targets_high=columns[3],
        ),
        age=np.array([range(len(costs)) if age is None else age]),
        first=np.array([first]),
    )


def room(inputs, targets, lengths=None):
    lengths = lengths or (inputs, targets)
    return packing.Room(
        inputs=np.array([float(inputs)]),
        targets=np.array([float(targets)]),
        inputs_weight=1 / lengths[0],
        targets_weight=1 / lengths[1] if lengths[1] else 0.0,
    )


def choose(policy, given, left):
    choice = policy(given, left)
    return int(choice.slot[0]), float(choice.share[0])


def test_greedy_takes_the_oldest_as_long_as_fits():
    assert choose(packing.choose_greedy, window(COSTS, age=[5, 3, 9]), room(60, 40)) == (1, 0.5)


def test_greedy_closes_the_row_where_the_oldest_does_not_fit():
    slot, _ = choose(packing.choose_greedy, window(COSTS, age=[5, 9, 3]), room(60, 40))
    assert slot == packing.NO_SLOT


def test_balanced_solves_for_the_pair_that_fills_both_sides():
    slot, share = choose(packing.choose_balanced, window(COSTS), room(100, 40))
    assert slot in (0, 1)
    costs = window(COSTS).costs.take((0, slot))
    inputs, targets = costs.at(np.float64(share))
    other = window(COSTS).costs.take((0, 1 - slot))
    rest = packing.longest_share(other, np.float64(100 - inputs), np.float64(40 - targets))
    used = other.at(rest)
    assert inputs + used[0] == pytest.approx(100)
    assert targets + used[1] == pytest.approx(40)


def test_an_empty_row_starts_with_its_oldest_draw():
    given = window(COSTS, age=[7, 8, 2], first=True)
    assert choose(packing.choose_balanced, given, room(300, 120))[0] == 2
    assert choose(packing.choose_balanced, given, room(100, 50))[0] == 2


def test_waiting_counts():
    """Two equal draws: the older goes first."""
    given = window([COSTS[0], COSTS[0]], age=[12, 4])
    assert choose(packing.choose_balanced, given, room(60, 10))[0] == 1


@pytest.mark.parametrize("policy", [packing.choose_greedy, packing.choose_balanced])
def test_empty_slots_are_never_chosen(policy):
    given = window(COSTS, age=[-1, -1, 6])
    assert choose(policy, given, room(95, 45))[0] == 2
    assert choose(policy, window(COSTS, age=[-1, -1, -1]), room(95, 45))[0] == packing.NO_SLOT


def test_one_sided_rows_are_filled():
    one_sided = [(50, 100, 0, 0), (60, 120, 0, 0)]
    slot, share = choose(packing.choose_balanced, window(one_sided), room(180, 0))
    inputs, _ = window(one_sided).costs.take((0, slot)).at(np.float64(share))
    rest = 180 - inputs
    low, high, *_ = one_sided[1 - slot]
    assert low <= rest <= high


@settings(deadline=None, max_examples=80, derandomize=True)
@given(data=st.data())
def test_what_is_chosen_fits_and_rows_do_not_see_each_other(data):
    rows, width = data.draw(st.integers(1, 4)), data.draw(st.integers(1, 9))
    seed = data.draw(st.integers(0, 10**6))
    random = np.random.default_rng(seed)
    low = random.integers(1, 60, (2, rows, width)).astype(float)
    high = low + random.integers(0, 80, (2, rows, width)) * random.integers(0, 2, (rows, width))
    given = packing.Window(
        costs=packing.Costs(
            inputs_low=low[0], inputs_high=high[0], targets_low=low[1], targets_high=high[1]
        ),
        age=random.permutation(rows * width).reshape(rows, width) - 2,
        first=random.integers(0, 2, rows).astype(bool),
    )
    left = packing.Room(
        inputs=random.integers(0, 300, rows).astype(float),
        targets=random.integers(0, 200, rows).astype(float),
        inputs_weight=1 / 300,
        targets_weight=1 / 200,
    )
    for policy in (packing.choose_greedy, packing.choose_balanced):
        together = policy(given, left)
        for row in range(rows):
            alone = policy(given.take(np.array([row])), left.take(np.array([row])))
            assert alone.slot[0] == together.slot[row]
            assert alone.share[0] == together.share[row]
            slot = together.slot[row]
            if slot == packing.NO_SLOT:
                continue
            assert given.age[row, slot] >= 0
            inputs, targets = given.costs.take((row, slot)).at(together.share[row])
            assert inputs <= left.inputs[row] + 1e-6
            assert targets <= left.targets[row] + 1e-6


def test_place_numbers_segments_within_rows():
    placement = packing.place(np.array([0, 0, 2, 2, 2]), num_rows=4)
    np.testing.assert_array_equal(placement.segment, [1, 2, 1, 2, 3])
    np.testing.assert_array_equal(placement.starts(np.array([5, 3, 4, 0, 2])), [0, 5, 0, 4, 4])


def test_in_order_opens_a_row_when_any_side_is_full():
    lengths = np.array([[4, 3], [5, 2], [2, 4], [7, 3]])
    np.testing.assert_array_equal(packing.in_order(lengths, (10, 8)).row, [0, 0, 1, 1])
    assert packing.in_order(lengths[:0], (10, 8)).num_rows == 0
    with pytest.raises(ValueError, match=r"lengths \[11, 1\] does not fit"):
        packing.in_order(np.array([[11, 1]]), (10, 8))


def test_in_order_ends_a_row_with_each_of_seqios_batches():
    lengths = np.array([[1, 1]] * 5 + [[4, 2]] * 2 + [[1, 0]] * 3)
    # Batches of 4 examples: the longer of the two sides.
    row = packing.in_order(lengths, (4, 4)).row
    np.testing.assert_array_equal(row, [0, 0, 0, 0, 1, 2, 3, 4, 5, 5])
