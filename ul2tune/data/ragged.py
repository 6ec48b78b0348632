"""Rows of different lengths without padding: one flat array of values and the length of each row.

Everything in `data/` that handles many segments at once takes and returns :class:`Ragged`; padding
appears only where a batch is built. Axes: ``N`` rows, ``T`` values of all rows together.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True, eq=False)
class Ragged:
    """`N` rows of token ids, back to back.

    >>> rows = Ragged.from_rows([[7, 8, 9], [], [5]])
    >>> rows.values, rows.lengths, rows.offsets
    (array([7, 8, 9, 5], dtype=int32), array([3, 0, 1]), array([0, 3, 3, 4]))
    >>> rows[0]
    array([7, 8, 9], dtype=int32)

    Attributes:
      values: [T], the rows' values one after the other (int32 for tokens).
      lengths: int64 [N], summing to T.
    """

    values: np.ndarray
    lengths: np.ndarray

    def __post_init__(self):
        assert self.values.ndim == 1, self.values.shape
        assert self.lengths.ndim == 1, self.lengths.shape
        assert int(self.lengths.sum()) == self.values.size, (self.lengths.sum(), self.values.size)

    @staticmethod
    def from_rows(
        rows: Iterable[Sequence[int] | np.ndarray], dtype: npt.DTypeLike = np.int32
    ) -> Ragged:
        """Copies any sequence of 1-D rows into one Ragged."""
        arrays = [np.asarray(row, dtype=dtype) for row in rows]
        lengths = np.array([array.size for array in arrays], dtype=np.int64)
        return Ragged(np.concatenate([np.empty(0, dtype), *arrays]), lengths)

    @property
    def offsets(self) -> np.ndarray:
        """int64 [N + 1]: row `i` is ``values[offsets[i]:offsets[i + 1]]``."""
        return offsets_of(self.lengths)

    def __len__(self) -> int:
        return self.lengths.size

    def __getitem__(self, row: int) -> np.ndarray:
        row = range(len(self))[row]  # negative rows count from the end; out of range raises
        start = int(self.lengths[:row].sum())
        return self.values[start : start + int(self.lengths[row])]

    def __iter__(self) -> Iterator[np.ndarray]:
        for start, stop in itertools.pairwise(self.offsets):
            yield self.values[start:stop]

    def take(self, rows: np.ndarray) -> Ragged:
        """The given rows, in the given order, as a new Ragged."""
        lengths = self.lengths[rows]
        return Ragged(self.values[ranges(self.offsets[rows], lengths)], lengths)


def interleave(parts: Sequence[tuple[np.ndarray, Ragged]]) -> Ragged:
    """Row `i` of a part becomes row ``numbers[i]`` of the result.

    >>> even, odd = Ragged.from_rows([[7, 8], [9]]), Ragged.from_rows([[5]])
    >>> rows = interleave([(np.array([0, 2]), even), (np.array([1]), odd)])
    >>> [row.tolist() for row in rows]
    [[7, 8], [5], [9]]

    Args:
      parts: the numbers of each part's rows, ascending, and the part; they number all rows.
    """
    if len(parts) < 2:
        return parts[0][1] if parts else Ragged.from_rows([])
    lengths = np.empty(sum(len(numbers) for numbers, _ in parts), np.int64)
    for numbers, part in parts:
        lengths[numbers] = part.lengths
    offsets = offsets_of(lengths)
    values = np.empty(offsets[-1], parts[0][1].values.dtype)
    for numbers, part in parts:
        values[ranges(offsets[numbers], part.lengths)] = part.values
    return Ragged(values, lengths)


def offsets_of(lengths_N: np.ndarray) -> np.ndarray:
    """int64 [N + 1] start of each row, and the total at the end.

    >>> offsets_of(np.array([3, 0, 1]))
    array([0, 3, 3, 4])
    """
    offsets = np.zeros(lengths_N.size + 1, dtype=np.int64)
    np.cumsum(lengths_N, out=offsets[1:])
    return offsets


def ranges(starts_N: np.ndarray, lengths_N: np.ndarray) -> np.ndarray:
    """Concatenation of ``arange(start, start + length)`` over the rows.

    >>> ranges(np.array([10, 50]), np.array([3, 2]))
    array([10, 11, 12, 50, 51])
    """
    offsets = offsets_of(lengths_N)
    return np.arange(offsets[-1]) + np.repeat(starts_N - offsets[:-1], lengths_N)
