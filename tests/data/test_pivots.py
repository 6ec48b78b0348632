"""Where prefix-LM segments are cut."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ul2tune.data import pivots, rng

property_test = settings(max_examples=100, deadline=None, derandomize=True)


@property_test
@given(
    lengths=st.lists(st.integers(0, 600), min_size=1, max_size=6),
    rate=st.floats(0.01, 0.99),
    pivot=st.sampled_from(pivots.PIVOTS),
    seed=st.integers(0, 2**32),
)
def test_cut_stays_within_its_bounds(lengths, rate, pivot, seed):
    lengths_N = np.array(lengths)
    low, high = pivots.prefix_bounds(lengths_N, rate, pivot)
    drawn = pivots.draw_prefixes(
        rng.fold_in(seed, np.arange(len(lengths))), lengths_N, rate, pivot, 0.2
    )
    assert np.all((low <= drawn) & (drawn <= high))
    long = lengths_N >= 2
    assert np.all((drawn >= 1)[long] & (drawn < lengths_N)[long])
    np.testing.assert_array_equal(drawn[~long], lengths_N[~long])


@pytest.mark.parametrize("pivot", pivots.PIVOTS)
@pytest.mark.parametrize("rate", [0.15, 0.25, 0.5, 0.75, 0.9])
def test_mean_target_fraction_is_the_rate(pivot, rate):
    length = 401
    drawn = pivots.draw_prefixes(
        rng.fold_in(1, np.arange(20_000)), np.full(20_000, length), rate, pivot, 0.02
    )
    assert abs((1 - drawn / length).mean() - rate) < 0.01


@pytest.mark.parametrize(("rate", "low", "high"), [(0.5, 1, 400), (0.25, 200, 400), (0.75, 1, 201)])
def test_uniform_cut_reaches_every_place_of_its_range(rate, low, high):
    drawn = pivots.draw_prefixes(
        rng.fold_in(1, np.arange(20_000)), np.full(20_000, 401), rate, "uniform"
    )
    assert np.unique(drawn).tolist() == list(range(low, high + 1))


def test_truncation_moves_the_mean_as_documented():
    keys, lengths_N = rng.fold_in(1, np.arange(50_000)), np.full(50_000, 1000)
    for std, mean in ((0.1, 0.25), (0.25, 0.32), (0.5, 0.43)):
        drawn = pivots.draw_prefixes(keys, lengths_N, 0.25, "truncated_normal", std)
        assert abs((1 - drawn / 1000).mean() - mean) < 0.005


def test_truncated_normal_spreads_as_asked():
    arguments = (rng.fold_in(1, np.arange(20_000)), np.full(20_000, 1000), 0.25, "truncated_normal")
    narrow = pivots.draw_prefixes(*arguments, 0.05)
    wide = pivots.draw_prefixes(*arguments, 1.0)
    assert abs(narrow.std() - 50) < 2
    assert (
        wide.std() > 250
    )  # nearly uniform: the truncation redraws, it does not pile up at the ends
    assert np.mean(wide <= 10) < 0.03
