"""Where a prefix-LM segment is cut: the first `prefix` tokens are given, the rest is predicted.

One knob, the mean fraction of tokens to predict `rate`, and three ways to place the cut:

    uniform            every cut of a range centred on the mean is equally likely
    fixed              always at the mean
    truncated_normal   normal around the mean, redrawn until inside the segment

Truncation moves a normal's mean away from `rate` and towards the middle, the more the wider it is:
for `rate` .25 the mean fraction is .25 with a standard deviation of .1, .32 with .25, .43 with .5.

Segments of two tokens and more have at least one token on each side; of shorter ones nothing is
predicted. Axes: ``N`` segments.

Published variants: UL2 Table 1 (mean L/4 of L: uniform, rate .25); T5's `prefix_lm` (uniform,
.5); Megatron-LM PR 268 (uniform, target span in 1 … 2rL - 1); NeMo (truncated_normal, .25); FAT5
and T5Gemma (fixed, .75 and .5); T5Gemma 2 (3L/4, .75).
"""

from __future__ import annotations

from typing import Literal

import numpy as np

from ul2tune.data import rng

Pivot = Literal["uniform", "fixed", "truncated_normal"]
PIVOTS = ("uniform", "fixed", "truncated_normal")


def prefix_bounds(
    lengths_N: np.ndarray, rate: float, pivot: Pivot
) -> tuple[np.ndarray, np.ndarray]:
    """Smallest and largest prefix that :func:`draw_prefixes` can return, both inclusive.

    >>> prefix_bounds(np.array([9, 1]), 0.25, "uniform")
    (array([4, 1]), array([8, 1]))
    >>> prefix_bounds(np.array([9]), 0.75, "uniform")
    (array([1]), array([5]))
    >>> prefix_bounds(np.array([9]), 0.75, "fixed")
    (array([2]), array([2]))

    For "uniform" and `rate` <= .5 the range is T5's,
    ``max(1, round((1 - 2 rate)(L - 1))) … L - 1``.

    DIVERGES: T5 rejects rates above .5. Here the *target* then gets the mirrored range,
    ``max(1, round((2 rate - 1)(L - 1))) … L - 1``, whose mean is again `rate`. Not published.
    NUMERICS: float32, half to even, as `random_prefix_noise_mask` computes it.
    """
    lengths_N = np.asarray(lengths_N, np.int64)
    longest = np.maximum(lengths_N - 1, 0)
    if pivot == "fixed":
        low = high = lengths_N - np.clip(_round(lengths_N, rate), 1, np.maximum(longest, 1))
    elif pivot == "truncated_normal":
        low, high = np.ones_like(lengths_N), longest
    elif rate <= 0.5:
        low, high = np.maximum(1, _round(longest, 1 - 2 * rate)), longest
    else:
        low, high = (
            np.ones_like(lengths_N),
            lengths_N - np.maximum(1, _round(longest, 2 * rate - 1)),
        )
    short = lengths_N < 2
    return np.where(short, lengths_N, low), np.where(short, lengths_N, high)


def draw_prefixes(
    keys_N: np.ndarray, lengths_N: np.ndarray, rate: float, pivot: Pivot, std: float | None = None
) -> np.ndarray:
    """Draws the number of given tokens of each segment.

    Args:
      keys_N: uint64 key per segment.
      lengths_N: tokens of each segment.
      rate: mean fraction of tokens to predict, in (0, 1); of a normal, before it is truncated.
      pivot: see the top of the file.
      std: for "truncated_normal": standard deviation as a fraction of the segment.

    Returns:
      int64 [N].
    """
    low, high = prefix_bounds(lengths_N, rate, pivot)
    if pivot != "truncated_normal":
        return rng.randint(keys_N, low, high + 1)
    assert std is not None, "truncated_normal needs a standard deviation"
    fractions = np.full(len(lengths_N), rate)
    pending, attempt = np.arange(len(lengths_N)), 0
    while pending.size:
        drawn = rate + std * rng.normal(rng.fold_in(keys_N[pending], attempt))
        inside = (drawn > 0.0) & (drawn < 1.0)
        fractions[pending[inside]] = drawn[inside]
        pending, attempt = pending[~inside], attempt + 1
    return np.clip(lengths_N - np.rint(fractions * lengths_N).astype(np.int64), low, high)


def _round(lengths_N: np.ndarray, fraction: float) -> np.ndarray:
    return np.rint(lengths_N.astype(np.float32) * np.float32(fraction)).astype(np.int64)
