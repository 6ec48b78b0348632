"""Permutations are permutations, epochs differ, rates hold, and nothing depends on the company."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ul2tune.data import mixing, rng


@settings(deadline=None, max_examples=60, derandomize=True)
@given(size=st.integers(1, 700), seed=st.integers(0, 2**64 - 1))
def test_every_epoch_shows_every_document_once(size, seed):
    order = mixing.document_index(seed, np.arange(3 * size), size)
    for epoch in order.reshape(3, size):
        np.testing.assert_array_equal(np.sort(epoch), np.arange(size))


def test_epochs_and_seeds_differ():
    orders = [mixing.document_index(s, np.arange(200), 100).reshape(2, 100) for s in (1, 2)]
    rows = {tuple(epoch.tolist()) for order in orders for epoch in order}
    assert len(rows) == 4
    assert tuple(range(100)) not in rows


def test_a_huge_task_needs_no_memory_and_elements_do_not_depend_on_each_other():
    size = 10**12 + 39
    ordinals = np.array([0, 5, size - 1, size, 7 * size + 3])
    together = mixing.document_index(9, ordinals, size)
    alone = [mixing.document_index(9, ordinals[i : i + 1], size)[0] for i in range(5)]
    np.testing.assert_array_equal(together, alone)
    assert np.all((together >= 0) & (together < size))
    assert np.unique(together).size == 5


def test_tasks_of_different_sizes_and_keys_in_one_call():
    keys, sizes = np.array([3, 4, 5], np.uint64), np.array([7, 100, 1])
    got = mixing.document_index(keys, np.array([4, 150, 9]), sizes)
    want = [
        mixing.document_index(k, np.array([o]), s)[0] for k, o, s in zip(keys, [4, 150, 9], sizes)
    ]
    np.testing.assert_array_equal(got, want)


def test_the_order_looks_random():
    """Where blocks of ten documents end up: a chi-squared of 100 cells over 400 permutations."""
    counts = np.zeros((10, 10))
    for seed in range(400):
        order = mixing.document_index(seed, np.arange(100), 100)
        np.add.at(counts, (np.arange(100) // 10, order // 10), 1)
    statistic = ((counts - 400) ** 2 / 400).sum()
    assert statistic < 81 + 5 * np.sqrt(2 * 81)


def test_draws_follow_the_rates():
    rates = (0.1, 0.6, 0.0, 0.3)
    drawn = mixing.draw_tasks(rng.fold_in(0, np.arange(20000)), rates)
    share = np.bincount(drawn, minlength=4) / 20000
    sigma = np.sqrt(np.array(rates) * (1 - np.array(rates)) / 20000)
    assert np.all(np.abs(share - rates) <= 4 * sigma)


def test_tasks_that_are_used_up_are_not_drawn():
    live = np.array([[True, False, True], [False, True, False], [False] * 3] * 500)
    drawn = mixing.draw_tasks(rng.fold_in(1, np.arange(1500)), (0.2, 0.5, 0.3), live).reshape(-1, 3)
    assert set(drawn[:, 0].tolist()) == {0, 2}
    assert np.mean(drawn[:, 0] == 0) == pytest.approx(0.4, abs=0.08)
    assert np.all(drawn[:, 1] == 1)
    assert np.all(drawn[:, 2] == -1)
