"""TensorFlow's stateless randomness, bit for bit, in NumPy: what T5's own preprocessors draw from.

Only the parity path uses it (`data/t5_compat.py`): with it, T5's masks and whole SeqIO pipelines
are reproduced from their seeds without TensorFlow. The fast path draws from `data/rng.py`.

Philox4x32-10: Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3". The key scramble,
the bits-to-float and bits-to-integer rules are those of TensorFlow's `stateless_random_ops` (CPU).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

_M0, _M1 = np.uint64(0xD2511F53), np.uint64(0xCD9E8D57)
_W0, _W1 = 0x9E3779B9, 0xBB67AE85
_LOW = np.uint64(0xFFFFFFFF)
_SHIFT = np.uint64(32)
_SCRAMBLE_KEY = (0x3EC8F720, 0x02461E29)
_DATASET_GRAPH_SEED = 87654321  # `tf.random.get_seed`'s graph seed when only an op seed is given
_MAX_OP_SEED = 2**31 - 1  # what it truncates op seeds by

Seed = Sequence[int] | np.ndarray


def philox(key: tuple[int, int], counters: np.ndarray) -> np.ndarray:
    """Ten rounds of Philox4x32.

    Args:
      key: two 32-bit words.
      counters: uint64 [n, 4] holding 32-bit words.

    Returns:
      uint32 [n, 4].
    """
    k0, k1 = int(key[0]), int(key[1])
    c0, c1, c2, c3 = (counters[:, i].astype(np.uint64) for i in range(4))
    for _ in range(10):
        p0, p1 = _M0 * c0, _M1 * c2
        c0, c1, c2, c3 = (
            (p1 >> _SHIFT) ^ c1 ^ np.uint64(k0),
            p1 & _LOW,
            (p0 >> _SHIFT) ^ c3 ^ np.uint64(k1),
            p0 & _LOW,
        )
        k0, k1 = (k0 + _W0) & 0xFFFFFFFF, (k1 + _W1) & 0xFFFFFFFF
    return np.stack([c0, c1, c2, c3], axis=1).astype(np.uint32)


def stateless_bits(seed: Seed, n: int) -> np.ndarray:
    """uint32 [n]: the words a TensorFlow stateless op draws from the seed pair."""
    words = np.array([w for s in seed for w in _words(int(s))], np.uint64)[None]
    mixed = philox(_SCRAMBLE_KEY, words)[0]
    return _stream((int(mixed[0]), int(mixed[1])), (int(mixed[2]), int(mixed[3])), n)


def stateless_uniform(
    seed: Seed, n: int, minval: int | None = None, maxval: int | None = None
) -> np.ndarray:
    """`tf.random.stateless_uniform`: float32 in [0, 1), or int32 in ``[minval, maxval)``.

    >>> stateless_uniform((0, 0), 3)
    array([0.21101546, 0.70601   , 0.8000634 ], dtype=float32)
    >>> stateless_uniform((0, 0), 3, minval=5, maxval=1003)
    array([599, 760, 791], dtype=int32)
    """
    words = stateless_bits(seed, n)
    if maxval is None:
        return ((words & np.uint32(0x7FFFFF)) | np.uint32(0x3F800000)).view(
            np.float32
        ) - np.float32(1)
    low = minval or 0
    assert low < maxval, (low, maxval)
    return (low + (words % np.uint32(maxval - low)).astype(np.int64)).astype(np.int32)


def stateless_split(seed: Seed, num: int) -> np.ndarray:
    """`tf.random.split` of an int64 seed pair: int64 [num, 2]."""
    words = stateless_bits(seed, 4 * num).astype(np.uint64)
    return (words[1::2] << _SHIFT | words[0::2]).view(np.int64).reshape(num, 2)


def stateless_shuffle(values: np.ndarray, seed: Seed) -> np.ndarray:
    """`seqio.stateless_shuffle`: values in the order of float32 draws, ties in their own order."""
    return values[np.argsort(stateless_uniform(seed, len(values)), kind="stable")]


def dataset_random(seed: int, n: int) -> np.ndarray:
    """int64 [n]: the first elements of `tf.data.Dataset.random(seed)` (32-bit values).

    >>> dataset_random(42, 2)
    array([2985944072, 4132877644])
    """
    lo, hi = _words(_DATASET_GRAPH_SEED), _words(seed % _MAX_OP_SEED)
    return _stream(lo, hi, n).astype(np.int64)


def dataset_seeds(seed: int, n: int) -> np.ndarray:
    """int64 [n, 2]: the pairs SeqIO gives the first elements of a map that took (seed, seed + 1).

    `seqio.map_seed_manager(S)` hands out consecutive integers in construction order: the first
    seeded map takes ``(S, S + 1)``, the second ``(S + 2, S + 3)``, and so on.
    """
    return np.stack([dataset_random(seed, n), dataset_random(seed + 1, n)], axis=1)


def dataset_choices(weights: Sequence[float] | np.ndarray, seed: int, n: int) -> np.ndarray:
    """int64 [n]: which datasets `tf.data.Dataset.sample_from_datasets(…, weights, seed)` turns to.

    It turns to an exhausted dataset too, and passes on.

    >>> dataset_choices([1.0] * 7, 7, 6)
    array([4, 0, 5, 1, 2, 4])

    NUMERICS: weights go through float32 logarithms, as there.
    """
    with np.errstate(divide="ignore"):  # a weight of zero has an empty interval
        logits = np.log(np.asarray(weights, np.float32)).astype(np.float64)
    edges = np.cumsum(np.exp(logits - logits.max()))
    pairs = dataset_random(seed, 2 * n).reshape(n, 2)
    words = np.array([stateless_bits(pair, 2) for pair in pairs], np.uint64).reshape(n, 2)
    mantissa = (words[:, 0] & np.uint64(0xFFFFF)) << _SHIFT | words[:, 1]  # high word first
    draws = (mantissa | np.uint64(1023 << 52)).view(np.float64) - 1.0
    return np.searchsorted(edges, draws * edges[-1], side="right")


def _words(value: int) -> tuple[int, int]:
    """Low and high 32 bits of a (signed) 64-bit integer."""
    value %= 2**64
    return value & 0xFFFFFFFF, value >> 32


def _stream(key: tuple[int, int], high: tuple[int, int], n: int) -> np.ndarray:
    """uint32 [n]: Philox outputs for counters (0, high), (1, high), …; `n` < 2**34."""
    blocks = -(-n // 4)
    counters = np.zeros((blocks, 4), np.uint64)
    counters[:, 0] = np.arange(blocks)
    counters[:, 2], counters[:, 3] = high
    return philox(key, counters).reshape(-1)[:n]
