"""Summary numbers of one array, or of how two differ."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

# Elements that are converted at a time.
_BLOCK = 2**20


@dataclass(frozen=True, kw_only=True)
class Statistics:
    """Of one array.

    Attributes:
      size: elements.
      rms: root of the mean square of the finite ones.
      largest: greatest absolute value of the finite ones.
      not_finite: how many are NaN or infinite.
    """

    size: int
    rms: float
    largest: float
    not_finite: int


@dataclass(frozen=True, kw_only=True)
class Difference:
    """Of two arrays of one shape.

    Attributes:
      relative: ``|b - a| / |a|`` in the L2 norm; infinite where only `a` is zero, NaN where either
        holds a number that is not finite.
      largest: greatest absolute difference.
      squares: ``|b - a|^2`` and ``|a|^2``, to add up over arrays.
    """

    relative: float
    largest: float
    squares: tuple[float, float]

    @property
    def equal(self) -> bool:
        """Whether there is no difference at all (-0.0 equals 0.0)."""
        return self.largest == 0.0


def statistics(x: np.ndarray) -> Statistics:
    """Statistics of an array of numbers, in whatever dtype.

    NUMERICS: sums are float64: squares of float32 neither overflow nor vanish.
    """
    squares, largest, not_finite = 0.0, 0.0, 0
    for (block,) in _blocks(x):
        finite = block[np.isfinite(block)]
        not_finite += block.size - finite.size
        if finite.size:
            squares += float(np.dot(finite, finite))
            largest = max(largest, float(np.abs(finite).max()))
    rms = math.sqrt(squares / max(1, x.size - not_finite))
    return Statistics(size=x.size, rms=rms, largest=largest, not_finite=not_finite)


def difference(a: np.ndarray, b: np.ndarray) -> Difference:
    """How far `b` is from `a`; both of one shape, their dtypes may differ."""
    assert a.shape == b.shape, (a.shape, b.shape)
    change, norm, largest = 0.0, 0.0, 0.0
    for first, second in _blocks(a, b):
        with np.errstate(invalid="ignore"):  # inf - inf
            delta = second - first
        change += float(np.dot(delta, delta))
        norm += float(np.dot(first, first))
        if delta.size:
            largest = float(np.maximum(largest, np.abs(delta).max()))  # NaN stays NaN
    return Difference(relative=relative(change, norm), largest=largest, squares=(change, norm))


def relative(change: float, norm: float) -> float:
    """The ratio of two norms from their squares; 0 of nothing is 0."""
    if norm == 0.0:
        return math.nan if math.isnan(change) else math.inf if change else 0.0
    if not math.isfinite(norm):
        return math.nan
    return math.sqrt(change / norm)


def _blocks(*arrays: np.ndarray) -> Iterator[tuple[np.ndarray, ...]]:
    flat = [x.reshape(-1) for x in arrays]
    for begin in range(0, flat[0].size, _BLOCK):
        yield tuple(x[begin : begin + _BLOCK].astype(np.float64) for x in flat)
