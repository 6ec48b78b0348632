"""Which task the next example comes from, and which of its documents: shuffling without memory.

A task's documents are shuffled by a permutation that is computed, not stored: a Feistel network
over the smallest rectangle that holds the indices, walked until it lands inside (Black & Rogaway
2002, "Ciphers with arbitrary finite domains"). Every epoch has its own.

Axis legend: N draws or ordinals, T tasks.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np

from ul2tune.data import rng

_ROUNDS = 6


def key_of(name: str) -> int:
    """A 64-bit key for a name: what a task's randomness is folded with, so that adding another
    task to a mixture leaves its order alone.

    >>> hex(key_of("c4"))
    '0xc25d0c00faa31200'
    """
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "little")


def document_index(key: int | np.ndarray, ordinal_N: np.ndarray, size: int | np.ndarray):
    """The document that comes `ordinal`-th when a task is read epoch after epoch.

    Ordinals ``e * size … (e + 1) * size - 1`` are epoch `e`: together they name every document
    exactly once, in an order of that epoch's own.

    Args:
      key: uint64 key(s), broadcast against the ordinals.
      ordinal_N: int64 position in the endless sequence.
      size: number of documents, at least 1 (broadcast).

    Returns:
      int64 [N] indices in ``[0, size)``.
    """
    ordinal_N, size_N = np.broadcast_arrays(np.asarray(ordinal_N, np.int64), np.int64(size))
    epoch_N, position_N = np.divmod(ordinal_N, size_N)
    return permute(rng.fold_in(key, epoch_N), position_N, size_N)


def permute(key_N: np.ndarray, index_N: np.ndarray, size_N: np.ndarray) -> np.ndarray:
    """A pseudo-random permutation of ``range(size)`` under each key, evaluated at one index.

    >>> sorted(permute(rng.fold_in(1, np.zeros(5, int)), np.arange(5), np.full(5, 5)).tolist())
    [0, 1, 2, 3, 4]
    """
    key_N, value_N, size_N = (
        np.array(a) for a in np.broadcast_arrays(rng.as_key(key_N), index_N, size_N)
    )
    tall_N = np.ceil(np.sqrt(size_N)).astype(np.int64)
    wide_N = -(-size_N // tall_N)
    rounds = [rng.fold_in(key_N, i) for i in range(_ROUNDS)]
    outside = np.arange(value_N.size)
    while outside.size:
        keys = [k[outside] for k in rounds]
        value_N[outside] = _feistel(keys, value_N[outside], tall_N[outside], wide_N[outside])
        outside = outside[value_N[outside] >= size_N[outside]]
    return value_N


def _feistel(keys, value_N, tall_N, wide_N):
    """One pass: a bijection of ``range(tall * wide)``; each round moves one coordinate by a hash
    of the other."""
    row_N, column_N = np.divmod(value_N, wide_N)
    for i, key_N in enumerate(keys):
        if i % 2 == 0:
            row_N = (row_N + _hash(key_N, column_N, tall_N)) % tall_N
        else:
            column_N = (column_N + _hash(key_N, row_N, wide_N)) % wide_N
    return row_N * wide_N + column_N


def _hash(key_N, value_N, size_N):
    return (rng.bits_at(key_N, value_N) % size_N.astype(np.uint64)).astype(np.int64)


def draw_tasks(key_N: np.ndarray, rates_T: Sequence[float], live_NT: np.ndarray | None = None):
    """A task for each key at the mixture's rates, int64 [N].

    Args:
      key_N: uint64 keys, one draw each.
      rates_T: non-negative weights.
      live_NT: bool, which tasks may still be drawn (finite passes run out of some). A row without
        any gets -1. None: all.
    """
    if live_NT is None:
        return rng.choice(key_N, rates_T)
    edges_NT = np.cumsum(np.where(live_NT, np.asarray(rates_T, np.float64), 0.0), axis=1)
    points_N = rng.uniform(key_N, 1)[:, 0] * edges_NT[:, -1]
    drawn_N = np.minimum((edges_NT <= points_N[:, None]).sum(axis=1), live_NT.shape[1] - 1)
    return np.where(live_NT.any(axis=1), drawn_N, -1)
