"""A 32-bit fingerprint per array, independent of how the array is sharded.

Orbax stores no checksum of the payload: a flipped bit in a data file restores silently as another
number. So a checkpoint carries one fingerprint per leaf, and :mod:`ul2tune.checkpoints.restore`
recomputes them from what it read.

    fingerprint(x) = sum_i  mix(bits(x_i)) * (mix(i) | 1)   mod 2^32

`mix` is a bijection of 32-bit words and the position weights are odd, hence invertible mod 2^32:
every change of a single element changes the fingerprint, and exchanged elements change it too
(unless by a 2^-32 accident). The sum is over integers, so it is the same in every order of
reduction: on one device, on a mesh, on several hosts.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

_BITS = {1: jnp.uint8, 2: jnp.uint16, 4: jnp.uint32}


def _mix(x: jax.Array) -> jax.Array:
    """MurmurHash3's finaliser: xor-shifts and odd multiplications, bijections of uint32."""
    x = x ^ (x >> 16)
    x = x * jnp.uint32(0x85EBCA6B)
    x = x ^ (x >> 13)
    x = x * jnp.uint32(0xC2B2AE35)
    return x ^ (x >> 16)


def fingerprint(x: jax.Array) -> jax.Array:
    """Returns the uint32 fingerprint of one array (any shape; elements of 1, 2 or 4 bytes).

    The bit pattern counts, not the value: -0.0 and 0.0 differ, and a NaN equals itself.
    """
    words = x.astype(jnp.uint8) if x.dtype == jnp.bool_ else x
    words = jax.lax.bitcast_convert_type(words, _BITS[words.dtype.itemsize]).astype(jnp.uint32)
    position = jnp.zeros(x.shape, jnp.uint32)
    stride = 1
    for dim in reversed(range(x.ndim)):
        index = jax.lax.broadcasted_iota(jnp.uint32, x.shape, dim)
        position = position + index * jnp.uint32(stride % 2**32)
        stride *= x.shape[dim]
    return jnp.sum(_mix(words) * (_mix(position) | jnp.uint32(1)), dtype=jnp.uint32)


@jax.jit
def _all(leaves: list[jax.Array]) -> jax.Array:
    return jnp.stack([fingerprint(leaf) for leaf in leaves])


def fingerprints(flat: Mapping[str, Any]) -> dict[str, int]:
    """Fingerprints of a flat ``{path: array}`` dict. Collective: every process must call it."""
    values = np.asarray(_all([flat[path] for path in sorted(flat)])) if flat else []
    return {path: int(value) for path, value in zip(sorted(flat), values)}


class HostFingerprint:
    """The fingerprint of an array that comes in pieces, in row-major order.

    Attributes:
      count: elements so far.
      value: the fingerprint so far; that of the array once all its elements were given.
    """

    # Padded to one of two lengths, so that two compiled functions serve all arrays, and the many
    # small ones do not cost as much as a large one.
    _SHORT, _LENGTH = 2**14, 2**20

    def __init__(self) -> None:
        self.count = self.value = 0

    def update(self, piece: np.ndarray) -> None:
        """Adds the next elements."""
        unsigned = np.dtype(f"u{piece.dtype.itemsize}")
        words = np.ascontiguousarray(piece).reshape(-1).view(unsigned)
        for begin in range(0, words.size, self._LENGTH):
            part = words[begin : begin + self._LENGTH]
            length = self._SHORT if part.size <= self._SHORT else self._LENGTH
            padded = np.zeros(length, np.uint32)
            padded[: part.size] = part
            start = (self.count + begin) % 2**32
            self.value += int(_piece(padded, np.uint32(start), np.uint32(part.size)))
        self.count += words.size
        self.value %= 2**32


@jax.jit
def _piece(words: jax.Array, start: jax.Array, size: jax.Array) -> jax.Array:
    index = jax.lax.iota(jnp.uint32, words.size)
    weighted = _mix(words) * (_mix(start + index) | jnp.uint32(1))
    return jnp.sum(jnp.where(index < size, weighted, 0), dtype=jnp.uint32)
