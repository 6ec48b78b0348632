"""Which tokens of a segment are noise: how many, in how many spans, and where.

A noise *mask* of a segment, and the *spans* that this package keeps instead of it::

    position   0 1 2 3 4 5 6 7 8 9
    mask       . . x x . . . x . .       starts [2, 7]  lengths [2, 1]

Spans are what T5's algorithm fixes first: their number follows from the segment's length by
arithmetic alone (:func:`span_counts`), then both the noise and the kept tokens are divided at
random. Working on spans rather than masks makes the cost per token a few array operations, and
numbering sentinels by *noise* span keeps inputs and targets aligned wherever a span lies.

Axes: ``N`` segments, ``M`` spans of all segments together, ``T`` tokens of all segments together.

Reference: Raffel et al. 2020 (arXiv:1910.10683) §3.1.4 and `random_spans_noise_mask` of the
text-to-text-transfer-transformer repository.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from ul2tune.data import rng
from ul2tune.data.ragged import Ragged, interleave, offsets_of, ranges


@dataclass(frozen=True, eq=False)
class Spans:
    """The noise spans of `N` segments, in order; never empty, never touching each other.

    Attributes:
      starts_M: int64, first token of each span, counted from its segment's start.
      lengths_M: int64, tokens of each span, >= 1.
      counts_N: int64, spans of each segment.
    """

    starts_M: np.ndarray
    lengths_M: np.ndarray
    counts_N: np.ndarray

    @cached_property
    def offsets(self) -> np.ndarray:
        """int64 [N + 1]: segment `i` owns spans ``offsets[i]:offsets[i + 1]``."""
        return offsets_of(self.counts_N)

    @cached_property
    def rows_M(self) -> np.ndarray:
        """int64 [M]: the segment of each span."""
        return np.repeat(np.arange(self.counts_N.size), self.counts_N)

    @cached_property
    def noise_before_M(self) -> np.ndarray:
        """int64 [M]: noise tokens of the same segment before each span."""
        total = offsets_of(self.lengths_M)
        return total[:-1] - total[self.offsets[self.rows_M]]

    @cached_property
    def noise_N(self) -> np.ndarray:
        """int64 [N]: noise tokens of each segment."""
        return np.diff(offsets_of(self.lengths_M)[self.offsets])


def span_counts(
    lengths_N: np.ndarray, rate: np.ndarray | float, mean_span: np.ndarray | float
) -> tuple[np.ndarray, np.ndarray]:
    """How many noise tokens and spans masks of the given lengths hold, exactly.

    ``noise = clip(round(length * rate), 1, length - 1)``, ``spans = max(1, round(noise / mean))``;
    none for segments of less than two tokens.

    >>> span_counts(np.array([512, 512, 190, 1]), np.array([.15, .5, .15, .15]), 3.0)
    (array([ 77, 256,  29,   0]), array([26, 85, 10,  0]))

    DIVERGES: T5 fails where there are more spans than kept tokens to separate them (e.g. rate .9
    with mean 1); here the number of spans is limited to the kept tokens.
    NUMERICS: float32 and round-half-even as TensorFlow computes the mask. T5's helper for feature
    lengths uses float64, which differs for 81 lengths below 8192 at rate .15 (190: 28 or 29).

    Args:
      lengths_N: tokens of each segment.
      rate, mean_span: corruption rate and mean span length, one or one per segment.

    Returns:
      (noise_N, spans_N), int64.
    """
    lengths_N = np.asarray(lengths_N, np.int64)
    noise = np.rint(lengths_N.astype(np.float32) * np.asarray(rate, np.float32)).astype(np.int64)
    noise = np.clip(noise, 1, np.maximum(lengths_N - 1, 1))
    spans = np.rint(noise.astype(np.float32) / np.asarray(mean_span, np.float32)).astype(np.int64)
    spans = np.clip(spans, 1, np.maximum(lengths_N - noise, 1))
    enough = lengths_N >= 2
    return noise * enough, spans * enough


def random_spans(
    keys_N: np.ndarray,
    lengths_N: np.ndarray,
    noise_N: np.ndarray,
    spans_N: np.ndarray,
    at_end_N: np.ndarray | bool = False,
) -> Spans:
    """Draws noise masks with exactly the given numbers of noise tokens and spans.

    Uniform over all such masks; with `at_end` uniform over those that start with a kept token and
    end with noise, which is T5's distribution. Both are a choice of places: the noise is cut at
    ``spans - 1`` of its ``noise - 1`` gaps, and the pieces are put into different gaps between kept
    tokens (``spans`` of ``kept + 1``; with `at_end`: the last one and ``spans - 1`` of the
    ``kept - 1`` inner ones)::

        kept 4, noise 3, spans 2     . x x . . . x     at_end      cut after 2, gaps 1 and 4 of 0..4
                                     x . . . x x .     anywhere    cut after 1, gaps 0 and 3 of 0..4

    Args:
      keys_N: uint64 key per segment.
      lengths_N, noise_N, spans_N: tokens, noise tokens and spans; see :func:`span_counts`.
      at_end_N: whether each segment's last span lies at its end (and no span at its start).
    """
    kept_N, at_end_N = lengths_N - noise_N, np.broadcast_to(at_end_N, spans_N.shape)
    has_N = spans_N > 0
    cuts_N = spans_N - has_N
    # Both choices in one call: rows 0..N-1 cut the noise, rows N..2N-1 pick the gaps.
    chosen = random_subsets(
        np.concatenate([rng.fold_in(keys_N, 0), rng.fold_in(keys_N, 1)]),
        np.concatenate([np.maximum(noise_N - 1, 0), kept_N + 1 - 2 * at_end_N * has_N]),
        np.concatenate([cuts_N, np.where(at_end_N, cuts_N, spans_N)]),
    )
    num_cuts, offsets = int(cuts_N.sum()), offsets_of(spans_N)
    first, last = offsets[:-1][has_N], offsets[1:][has_N] - 1
    noise_before = np.zeros(offsets[-1], np.int64)
    noise_before[_all_but(first, offsets[-1])] = chosen.values[:num_cuts] + 1
    kept_before = np.empty(offsets[-1], np.int64)
    fixed = last[at_end_N[has_N]]
    shift_M = np.repeat(at_end_N, spans_N)
    free = _all_but(fixed, offsets[-1])
    kept_before[free] = chosen.values[num_cuts:] + shift_M[free]
    kept_before[fixed] = kept_N[has_N & at_end_N]
    lengths_M = np.empty_like(noise_before)
    lengths_M[:-1] = noise_before[1:] - noise_before[:-1]
    lengths_M[last] = noise_N[has_N] - noise_before[last]
    return Spans(kept_before + noise_before, lengths_M, spans_N)


def random_subsets(keys_N: np.ndarray, sizes_N: np.ndarray, chosen_N: np.ndarray) -> Ragged:
    """Uniform random subsets: per row, `chosen` different integers below `size`, ascending.

    Draws with replacement until enough are distinct, which is a uniform subset, and takes the
    complement where more than half are wanted: the cost follows the number chosen, not the size.
    """
    sizes_N, chosen_N = np.asarray(sizes_N, np.int64), np.asarray(chosen_N, np.int64)
    assert np.all(chosen_N >= 0), "cannot choose a negative number"
    assert np.all(chosen_N <= sizes_N), "cannot choose more than there are"
    offsets = offsets_of(sizes_N)
    complement_N = 2 * chosen_N > sizes_N
    missing_N = np.where(complement_N, sizes_N - chosen_N, chosen_N)
    drawn_N = np.zeros_like(missing_N)
    owner_T = np.full(offsets[-1], -1, np.int32)  # which draw of the round took a place
    while (rows := np.flatnonzero(missing_N)).size:
        counts = missing_N[rows]
        row, counter = np.repeat(rows, counts), ranges(drawn_N[rows], counts)
        place = offsets[row] + rng.scale(rng.bits_at(keys_N[row], counter), sizes_N[row])
        fresh = owner_T[place] < 0
        serial = np.arange(row.size, dtype=np.int32)
        owner_T[place] = serial
        fresh &= owner_T[place] == serial  # one winner among equal draws of this round
        drawn_N[rows] += counts
        missing_N -= np.bincount(row[fresh], minlength=missing_N.size)
    taken_T = (owner_T >= 0) ^ np.repeat(complement_N, sizes_N)
    values = np.flatnonzero(taken_T) - np.repeat(offsets[:-1], chosen_N)
    return Ragged(values, chosen_N)


def rotate(spans: Spans, lengths_N: np.ndarray, shifts_N: np.ndarray) -> Spans:
    """Moves every span right by its segment's shift, around the end (T5's `random_roll`).

    A span across the end becomes two, one at the end and one at the start, so a segment can have
    one span more than before.
    """
    rows, length_M = spans.rows_M, lengths_N[spans.rows_M]
    starts = (spans.starts_M + shifts_N[rows]) % length_M
    inside = np.minimum(spans.lengths_M, length_M - starts)
    wrapped = np.flatnonzero(spans.lengths_M > inside)
    rows = np.concatenate([rows, rows[wrapped]])
    starts = np.concatenate([starts, np.zeros(wrapped.size, np.int64)])
    lengths = np.concatenate([inside, (spans.lengths_M - inside)[wrapped]])
    order = np.lexsort((starts, rows))
    counts = spans.counts_N + np.bincount(rows[spans.rows_M.size :], minlength=len(lengths_N))
    return Spans(starts[order], lengths[order], counts)


def tail_spans(prefix_N: np.ndarray, lengths_N: np.ndarray) -> Spans:
    """One span from `prefix` to the end of each segment (none where that is empty)."""
    counts = (prefix_N < lengths_N).astype(np.int64)
    rows = np.flatnonzero(counts)
    return Spans(prefix_N[rows], (lengths_N - prefix_N)[rows], counts)


def from_mask(mask: Ragged) -> Spans:
    """Spans of boolean masks.

    >>> from_mask(Ragged.from_rows([[0, 0, 1, 1, 0, 1], [1]], dtype=bool)).starts_M
    array([2, 5, 0])
    """
    offsets, noise = mask.offsets, mask.values.astype(bool)
    starts, stops = noise.copy(), noise.copy()
    starts[1:] &= ~noise[:-1]
    stops[:-1] &= ~noise[1:]
    # A segment's edge also starts and stops a span.
    edges = offsets[:-1][mask.lengths > 0]
    starts[edges] = noise[edges]
    stops[edges[1:] - 1] = noise[edges[1:] - 1]
    first, last = np.flatnonzero(starts), np.flatnonzero(stops)
    rows = np.searchsorted(offsets, first, side="right") - 1
    counts = np.bincount(rows, minlength=len(mask)).astype(np.int64)
    return Spans(first - offsets[rows], last + 1 - first, counts)


def merge(parts: list[tuple[np.ndarray, Spans]]) -> Spans:
    """Joins spans of groups of segments that are all segments; arguments as :func:`interleave`."""
    starts = interleave([(rows, Ragged(part.starts_M, part.counts_N)) for rows, part in parts])
    lengths = interleave([(rows, Ragged(part.lengths_M, part.counts_N)) for rows, part in parts])
    return Spans(starts.values, lengths.values, starts.lengths)


def _all_but(excluded: np.ndarray, size: int) -> np.ndarray:
    keep = np.ones(size, bool)
    keep[excluded] = False
    return np.flatnonzero(keep)
