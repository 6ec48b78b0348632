"""Counter-based randomness: every number is a pure function of a 64-bit key and a counter.

No generator object and no state: row `i` of a batch depends on ``keys[i]`` alone, so the same
example gets the same noise whatever the batch, host, worker or restart that reads it. Keys are
derived with :func:`fold_in`, e.g. ``fold_in(seed, stream, counter)``.

The mixing function is the finaliser of SplitMix64 (Steele, Lea & Flood 2014, "Fast splittable
pseudorandom number generators", variant 13 of Stafford); ``bits(key, n)`` is that generator's
stream from state `key`. It is no cryptographic hash.

Axes: ``N`` keys.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

_GAMMA = np.uint64(0x9E3779B97F4A7C15)  # 2**64 / golden ratio, odd
_FOLD = np.uint64(0xD1B54A32D192ED03)  # any odd constant that differs from _GAMMA
_MUL_1, _MUL_2 = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)
_S27, _S30, _S31, _S32, _S11 = (np.uint64(shift) for shift in (27, 30, 31, 32, 11))


def fold_in(key: ArrayLike, *values: ArrayLike) -> np.ndarray:
    """Derives a new key from `key` and each value in turn.

    The order of values matters: ``fold_in(k, a, b) == fold_in(fold_in(k, a), b)``.

    >>> fold_in(42, 1) == fold_in(42, 2)
    np.False_
    >>> fold_in(42, np.arange(3)).shape
    (3,)

    Args:
      key: an integer seed (any Python int, taken modulo 2**64) or uint64 array of keys.
      values: integers or integer arrays, broadcast against the key.

    Returns:
      uint64 array of the broadcast shape.
    """
    key = as_key(key)
    # NumPy warns of wrapping on scalars only; wrapping is the point.
    with np.errstate(over="ignore"):
        for value in values:
            key = _mix(_mix(key ^ _FOLD) + as_key(value) * _GAMMA)
    return key


def bits(keys_N: ArrayLike, n: int) -> np.ndarray:
    """uint64 [N, n] uniform words; row `i` depends on ``keys_N[i]`` only, whatever `n`."""
    return bits_at(as_key(keys_N)[..., None], np.arange(n, dtype=np.uint64))


def bits_at(keys: ArrayLike, counters: ArrayLike) -> np.ndarray:
    """uint64 words number `counters` of the streams `keys` (broadcast): :func:`bits` at random."""
    with np.errstate(over="ignore"):
        return _mix(as_key(keys) + (as_key(counters) + np.uint64(1)) * _GAMMA)


def uniform(keys_N: ArrayLike, n: int) -> np.ndarray:
    """float64 [N, n] in [0, 1), 53 random bits each."""
    return (bits(keys_N, n) >> _S11) * 2.0**-53


def randint(keys_N: ArrayLike, low: ArrayLike, high: ArrayLike) -> np.ndarray:
    """int64 [N], one integer in ``[low, high)`` per key; bounds broadcast against the keys.

    NUMERICS: multiply-shift on 32 random bits; the bias is below ``(high - low) / 2**32``.
    """
    low, high = np.asarray(low, np.int64), np.asarray(high, np.int64)
    assert np.all(low < high), "empty range"
    assert np.all(high - low < 2**32), "too wide a range"
    return low + scale(bits_at(keys_N, 0), high - low)


def scale(words: np.ndarray, size: ArrayLike) -> np.ndarray:
    """Maps random 64-bit words to int64 in ``[0, size)``, `size` < 2**32; see :func:`randint`."""
    return (((words >> _S32) * as_key(size)) >> _S32).astype(np.int64)


def choice(keys_N: ArrayLike, probabilities: ArrayLike) -> np.ndarray:
    """int64 [N] index drawn with the given probabilities (normalised here), one per key."""
    edges = np.cumsum(np.asarray(probabilities, np.float64))
    draws = uniform(keys_N, 1)[..., 0] * edges[-1]
    # A probability of zero is never drawn: `right` skips its empty interval.
    return np.minimum(np.searchsorted(edges, draws, side="right"), edges.size - 1)


def normal(keys_N: ArrayLike) -> np.ndarray:
    """float64 [N] standard normal values (Box & Muller 1958), one per key."""
    u = uniform(keys_N, 2)
    return np.sqrt(-2.0 * np.log1p(-u[..., 0])) * np.cos(2.0 * np.pi * u[..., 1])


def as_key(key: ArrayLike) -> np.ndarray:
    """uint64 array of the integers `key`, modulo 2**64."""
    if isinstance(key, int):
        return np.uint64(key % 2**64)  # type: ignore[return-value]
    array = np.asarray(key)
    assert array.dtype.kind in "iu", f"keys must be integers, got {array.dtype}"
    return array.astype(np.uint64, copy=False)


def _mix(z: np.ndarray) -> np.ndarray:
    z = (z ^ (z >> _S30)) * _MUL_1
    z = (z ^ (z >> _S27)) * _MUL_2
    return z ^ (z >> _S31)
