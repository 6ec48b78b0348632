"""Batches of one size: full where the window allows, nothing lost, and the order comes back."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from ul2tune.evaluation import batching
from ul2tune.evaluation.infer import WINDOW_BATCHES
from ul2tune.evaluation.predictor import length_buckets


def batches(items: str, **options) -> list[list[tuple[int, str]]]:
    return list(batching.by_size(items, str, **options))


def test_the_example_of_the_module():
    found = batches("SLSSLSS", batch_size=2, window=4)
    numbers = [[number for number, _ in batch] for batch in found]
    assert numbers == [[0, 2], [1, 4], [3, 5], [6]]
    assert list(batching.in_order(found)) == [["S"], ["L", "S"], ["S", "L", "S"], ["S"]]


def test_a_batch_goes_when_it_is_full_and_before_more_is_read():
    stream = itertools.count()
    found = batching.by_size(stream, lambda number: number % 2, batch_size=3, window=100)
    assert next(found) == [(0, 0), (2, 2), (4, 4)]
    assert next(stream) == 5


@pytest.mark.parametrize("window", [0, 1, 5, 40])
@pytest.mark.parametrize("count", [0, 1, 333])
def test_nothing_waits_for_longer_than_the_window(window, count):
    draws = np.random.default_rng(window)
    items = "".join(draws.choice(list("abcd"), count, p=(0.6, 0.3, 0.09, 0.01)))
    read = 0

    def stream():
        nonlocal read
        for item in items:
            read += 1
            yield item

    seen, turn = set(), 0
    for batch in batching.by_size(stream(), str, batch_size=4, window=window):
        assert 1 <= len(batch) <= 4
        assert {items[number] for number, _ in batch} == {item for _, item in batch}
        assert len({item for _, item in batch}) == 1
        assert [number for number, _ in batch] == sorted(number for number, _ in batch)
        if len(batch) < 4 and read < count:
            assert read - 1 - batch[0][0] == window
        seen.update(number for number, _ in batch)
        while turn in seen:
            turn += 1
        assert sum(number > turn for number in seen) <= window
    assert seen == set(range(count))


def test_order_comes_back_from_any():
    numbers = np.random.default_rng(0).permutation(97).tolist()
    groups = [[(n, f"line {n}") for n in numbers[i : i + 10]] for i in range(0, 97, 10)]
    found = list(batching.in_order(groups))
    assert all(found)
    assert list(itertools.chain(*found)) == [f"line {n}" for n in range(97)]


@pytest.mark.parametrize(("median", "most"), [(60, 1.04), (150, 1.01), (300, 1.02)])
def test_batches_of_lengths_as_they_occur_are_nearly_full(median, most):
    """Lognormal lengths: batches as times the fewest that could hold as many prompts."""
    draws = np.random.default_rng(0).lognormal(np.log(median), 0.8, 20_000)
    buckets = np.array(length_buckets(1024))
    lengths = buckets[np.searchsorted(buckets, np.clip(draws, 5, 1024))].tolist()
    found = sum(
        1 for _ in batching.by_size(lengths, lambda n: n, batch_size=32, window=32 * WINDOW_BATCHES)
    )
    assert found / math.ceil(20_000 / 32) <= most
