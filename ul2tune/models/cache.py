"""What decoding remembers: keys and values of every layer.

Axes: N layers, B batch, L target length, S source length, H heads, A head size.
"""

from __future__ import annotations

import dataclasses
import functools
from dataclasses import dataclass

import jax
import jax.numpy as jnp

from ul2tune.sharding import constrain

AXES = ("layers", "batch", "length", "heads", "kv")


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=["self_key", "self_value", "cross_key", "cross_value", "source_BS"],
    meta_fields=[],
)
@dataclass(frozen=True, kw_only=True)
class DecodeCache:
    """A pytree; every array has the batch as its second axis, `source_BS` as its first.

    Attributes:
      self_key: [N, B, L, H, A], of the positions decoded so far; zeros after them.
      self_value: [N, B, L, H, A].
      cross_key: [N, B, S, H, A], computed once from the encoder's output.
      cross_value: [N, B, S, H, A].
      source_BS: segment ids of the source: 1 at real tokens, 0 at padding.
    """

    self_key: jax.Array
    self_value: jax.Array
    cross_key: jax.Array
    cross_value: jax.Array
    source_BS: jax.Array

    @classmethod
    def start(
        cls, cross_key: jax.Array, cross_value: jax.Array, source_BS: jax.Array, length: int
    ) -> DecodeCache:
        """Returns a cache with room for `length` target positions, none of them decoded."""
        layers, batch, _, heads, size = cross_key.shape
        empty = jnp.zeros((layers, batch, length, heads, size), cross_key.dtype)
        return cls(
            self_key=constrain(empty, *AXES),
            self_value=constrain(empty, *AXES),
            cross_key=constrain(cross_key, *AXES),
            cross_value=constrain(cross_value, *AXES),
            source_BS=source_BS,
        )

    def append(
        self, layer: jax.Array, index: jax.Array | int, key_B1HA: jax.Array, value_B1HA: jax.Array
    ) -> DecodeCache:
        """Writes one position of one layer."""
        start = (layer, 0, index, 0, 0)
        return dataclasses.replace(
            self,
            self_key=jax.lax.dynamic_update_slice(self.self_key, key_B1HA[None], start),
            self_value=jax.lax.dynamic_update_slice(self.self_value, value_B1HA[None], start),
        )
