"""Numbers and places of noise spans."""

import collections
import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ul2tune.data import rng, spans
from ul2tune.data.ragged import Ragged, offsets_of, ranges

property_test = settings(max_examples=100, deadline=None, derandomize=True)
LENGTHS = st.lists(st.integers(0, 700), min_size=1, max_size=6)
RATES = st.floats(0.01, 0.99)
MEANS = st.floats(1.0, 100.0)


def to_mask(drawn: spans.Spans, lengths_N: np.ndarray) -> Ragged:
    """The inverse of `spans.from_mask`."""
    mask = np.zeros(int(lengths_N.sum()), bool)
    mask[ranges(offsets_of(lengths_N)[drawn.rows_M] + drawn.starts_M, drawn.lengths_M)] = True
    return Ragged(mask, lengths_N)


def masks(drawn: spans.Spans, length: int) -> np.ndarray:
    lengths = np.full(drawn.counts_N.size, length)
    return to_mask(drawn, lengths).values.reshape(-1, length)


@property_test
@given(lengths=LENGTHS, rate=RATES, mean=MEANS)
def test_counts_cover_the_rate(lengths, rate, mean):
    noise, num_spans = spans.span_counts(np.array(lengths), rate, mean)
    for length, n, s in zip(lengths, noise, num_spans, strict=True):
        if length < 2:
            assert (n, s) == (0, 0)
            continue
        assert 1 <= n <= length - 1
        assert abs(n - length * rate) <= 0.5 + 1e-3 or n in (1, length - 1)
        assert 1 <= s <= min(n, length - n)
        assert abs(s - n / mean) <= 0.5 + 1e-3 or s in (1, length - n)


def test_lengths_follow_the_mask_where_float64_rounds_differently():
    """Pitfall: T5's helper rounds in float64, its mask in float32, half to even."""
    noise, _ = spans.span_counts(np.array([190, 710]), 0.15, 3.0)
    assert noise.tolist() == [29, 107]
    assert [round(190 * 0.15), round(710 * 0.15)] == [28, 106]
    # Half to even: 10 * .25 = 2.5 -> 2, 14 * .25 = 3.5 -> 4.
    assert spans.span_counts(np.array([10, 14]), 0.25, 1.0)[0].tolist() == [2, 4]


def test_at_least_one_span_where_the_mean_is_longer_than_the_noise():
    """Pitfall: (64, .15) of 127 or 128 tokens has 19 noise tokens, and round(19 / 64) = 0 spans."""
    noise, num_spans = spans.span_counts(np.array([127, 128, 149, 154]), 0.15, 64.0)
    assert noise.tolist() == [19, 19, 22, 23]
    assert num_spans.tolist() == [1, 1, 1, 1]


@property_test
@given(lengths=LENGTHS, rate=RATES, mean=MEANS, seed=st.integers(0, 2**32), at_end=st.booleans())
def test_drawn_masks_have_the_counted_noise_and_spans(lengths, rate, mean, seed, at_end):
    lengths_N = np.array(lengths)
    noise, counts = spans.span_counts(lengths_N, rate, mean)
    keys = rng.fold_in(seed, np.arange(len(lengths)))
    drawn = spans.random_spans(keys, lengths_N, noise, counts, at_end)
    mask = to_mask(drawn, lengths_N)
    for row, n, s in zip(mask, noise, counts, strict=True):
        assert row.sum() == n
        starts = np.flatnonzero(np.diff(np.concatenate([[0], row.astype(int)])) == 1)
        assert starts.size == s
        if at_end and s:
            assert row[-1]
            assert not row[0]
    np.testing.assert_array_equal(drawn.noise_N, noise)
    again = spans.from_mask(mask)
    for name in ("starts_M", "lengths_M", "counts_N"):
        np.testing.assert_array_equal(getattr(again, name), getattr(drawn, name))


@pytest.mark.parametrize("at_end", [False, True])
def test_masks_are_uniform(at_end):
    """All masks of 8 tokens with 4 noise tokens in 2 spans, each equally often."""
    length, noise, num_spans, draws = 8, 4, 2, 60_000
    possible = []
    for chosen in itertools.combinations(range(length), noise):
        mask = [int(i in chosen) for i in range(length)]
        starts = sum(b > a for a, b in itertools.pairwise([0, *mask]))
        if starts == num_spans and (not at_end or (mask[-1] and not mask[0])):
            possible.append(tuple(mask))
    columns = (np.full(draws, x) for x in (length, noise, num_spans))
    drawn = spans.random_spans(rng.fold_in(5, np.arange(draws)), *columns, at_end)
    counts = collections.Counter(tuple(row) for row in masks(drawn, length).astype(int))
    assert counts.keys() == set(possible)
    expected = draws / len(possible)
    chi_square = sum((counts[mask] - expected) ** 2 / expected for mask in possible)
    freedom = len(possible) - 1
    assert chi_square < freedom + 4.5 * (2 * freedom) ** 0.5 + 6


def test_segment_depends_on_its_own_key_only():
    lengths = np.array([300, 512, 77, 40])
    keys = rng.fold_in(9, np.arange(4))
    noise, counts = spans.span_counts(lengths, np.array([0.5, 0.15, 0.5, 0.9]), 3.0)
    together = spans.random_spans(keys, lengths, noise, counts)
    for i in range(4):
        one = slice(i, i + 1)
        alone = spans.random_spans(keys[one], lengths[one], noise[one], counts[one])
        own = slice(together.offsets[i], together.offsets[i + 1])
        np.testing.assert_array_equal(alone.starts_M, together.starts_M[own])
        np.testing.assert_array_equal(alone.lengths_M, together.lengths_M[own])


@property_test
@given(
    sizes=st.lists(st.integers(0, 60), min_size=1, max_size=5),
    share=st.floats(0, 1),
    seed=st.integers(0, 2**32),
)
def test_subsets_are_subsets(sizes, share, seed):
    chosen = [round(size * share) for size in sizes]
    drawn = spans.random_subsets(rng.fold_in(seed, np.arange(len(sizes))), sizes, chosen)
    for row, size, number in zip(drawn, sizes, chosen, strict=True):
        assert row.size == number == np.unique(row).size
        assert np.all((row >= 0) & (row < size) & (row == np.sort(row)))


def test_roll_is_numpy_roll_of_the_mask():
    length, rows = 23, 400
    noise, counts = (np.full(rows, x) for x in (9, 3))
    keys, lengths = rng.fold_in(2, np.arange(rows)), np.full(rows, length)
    drawn = spans.random_spans(keys, lengths, noise, counts, True)
    shifts = np.arange(rows) % length
    rolled = spans.rotate(drawn, lengths, shifts)
    expected = [
        np.roll(row, shift) for row, shift in zip(masks(drawn, length), shifts, strict=True)
    ]
    np.testing.assert_array_equal(masks(rolled, length), expected)
    assert set(rolled.counts_N) == {3, 4}  # a span across the end counts twice
    straight = spans.from_mask(Ragged(masks(rolled, length).ravel(), lengths))
    np.testing.assert_array_equal(straight.starts_M, rolled.starts_M)
    np.testing.assert_array_equal(straight.counts_N, rolled.counts_N)


def test_no_segments_and_empty_segments():
    none = np.zeros(0, np.int64)
    assert spans.random_spans(none.astype(np.uint64), none, none, none).starts_M.size == 0
    empty = spans.from_mask(Ragged.from_rows([[], [1], []], dtype=bool))
    assert empty.counts_N.tolist() == [0, 1, 0]
    assert spans.tail_spans(np.array([0, 3]), np.array([0, 3])).counts_N.tolist() == [0, 0]
