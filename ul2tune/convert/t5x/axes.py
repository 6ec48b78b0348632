"""Rearranging arrays by the names of their axes, as T5X's layouts differ from ours in nothing else.

An array's axes are a tuple of names; one that joins several is written with ``*`` between them,
the slowest first: a kernel [512, 8 * 64] has the axes ("embed", "heads*kv").
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

Axes = tuple[str, ...]
JOIN = "*"
# T5X's `standard_logical_factor_rules`, in our names.
ROW, COLUMN = {"embed"}, {"mlp", "heads", "kv", "vocab"}
LAYERS = "layers"
MIN_SIZE_TO_FACTOR = 128


def split(axes: Sequence[str]) -> Axes:
    """Takes joined axes apart: ("embed", "heads*kv") -> ("embed", "heads", "kv")."""
    return tuple(name for axis in axes for name in axis.split(JOIN))


def shape(axes: Sequence[str], sizes: Mapping[str, int]) -> tuple[int, ...]:
    """The shape of an array with these axes."""
    return tuple(math.prod(sizes[name] for name in axis.split(JOIN)) for axis in axes)


def rearrange(
    x: np.ndarray, source: Sequence[str], target: Sequence[str], sizes: Mapping[str, int]
) -> np.ndarray:
    """Transposes, splits and joins axes; swapping `source` and `target` undoes it.

    >>> rearrange(out, ("heads*kv", "layers", "embed"), ("layers", "heads", "kv", "embed"), sizes)
    """
    names = split(source)
    assert sorted(names) == sorted(split(target)), (source, target)
    order = [names.index(name) for name in split(target)]
    return x.reshape(shape(names, sizes)).transpose(order).reshape(shape(target, sizes))


def factored(axes: Sequence[str], sizes: Mapping[str, int]) -> tuple[Axes, Axes] | None:
    """How T5X's Adafactor factors an array: the axes of `v_row` and of `v_col`, or None.

    Arrays of rank 2 or less, unless layers are stacked in them: by size alone. Others: by name,
    whatever their size. See `optim.factoring`, which has our side of it.
    """
    axes = tuple(axes)
    if len(axes) <= 2 and LAYERS not in axes:
        lengths = shape(axes, sizes)
        if len(axes) < 2 or min(lengths) < MIN_SIZE_TO_FACTOR:
            return None
        column = 0 if lengths[0] > lengths[1] else 1
        return (axes[1 - column],), (axes[column],)
    rows = tuple(axis for axis in axes if set(axis.split(JOIN)) & ROW)
    columns = tuple(axis for axis in axes if set(axis.split(JOIN)) & COLUMN)
    if not rows or not columns:
        return None
    return without(axes, columns), without(axes, rows)


def without(axes: Sequence[str], dropped: Sequence[str]) -> Axes:
    return tuple(axis for axis in axes if axis not in dropped)
