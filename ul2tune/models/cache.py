"""What decoding remembers: keys and values of every layer.

Axes: N layers, B batch, L target length, S source length or slots, H heads, K key/value heads,
A head size. T5 has K = H.
"""

from __future__ import annotations

import dataclasses
import functools
from dataclasses import dataclass

import jax
import jax.numpy as jnp

from ul2tune.sharding import constrain

AXES = ("layers", "batch", "length", "kv_heads", "kv")


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=["self_key", "self_value", "cross_key", "cross_value", "source_BS"],
    meta_fields=[],
)
@dataclass(frozen=True, kw_only=True)
class DecodeCache:
    """A pytree; every array has the batch as its second axis, `source_BS` as its first.

    Attributes:
      self_key: [N, B, L, K, A], of the positions decoded so far; zeros after them.
      self_value: [N, B, L, K, A].
      cross_key: [N, B, S, K, A], computed once from the encoder's output.
      cross_value: [N, B, S, K, A].
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
        self, layer: jax.Array, index: jax.Array | int, key_B1KA: jax.Array, value_B1KA: jax.Array
    ) -> DecodeCache:
        """Writes one position of one layer."""
        start = (layer, 0, index, 0, 0)
        return dataclasses.replace(
            self,
            self_key=jax.lax.dynamic_update_slice(self.self_key, key_B1KA[None], start),
            self_value=jax.lax.dynamic_update_slice(self.self_value, value_B1KA[None], start),
        )


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=["key", "value", "lengths_B", "last_B"],
    meta_fields=["prompt_slots"],
)
@dataclass(frozen=True, kw_only=True)
class PromptCache:
    """What a decoder-only model remembers: a prompt of its own length per row, then one slot per
    decoded token, the same for all rows, so that a step writes one column.

        prompts of 3 and 1 tokens (S start), prompt_slots = 4, after steps 0 and 1 of 3:

        slot       0  1  2  3 | 4  5  6
        row 0      S  a  b  . | c  d  .      c = the prompt's last token, read by step 0
        position   0  1  2    | 3  4
        row 1      S  .  .  . | x  y  .
        position   0          | 1  2

    Attributes:
      key: [N, B, prompt_slots + L, K, A].
      value: of the same shape.
      lengths_B: tokens of each prompt: the position that step 0 reads.
      last_B: the prompt's last token, which step 0 reads; the start token of an empty prompt.
      prompt_slots: slots for prompts.
    """

    key: jax.Array
    value: jax.Array
    lengths_B: jax.Array
    last_B: jax.Array
    prompt_slots: int

    def write(
        self, layer: jax.Array, slot: jax.Array | int, key_BSKA: jax.Array, value_BSKA: jax.Array
    ) -> PromptCache:
        """Writes the slots of one layer from `slot` on."""
        start = (layer, 0, slot, 0, 0)
        return dataclasses.replace(
            self,
            key=jax.lax.dynamic_update_slice(self.key, key_BSKA[None], start),
            value=jax.lax.dynamic_update_slice(self.value, value_BSKA[None], start),
        )

    def distances(self, index: jax.Array | int) -> jax.Array:
        """How far behind the token of step `index` every slot's is, [B, slots]; negative where the
        slot is empty or to come."""
        slots_S = jnp.arange(self.key.shape[2])
        is_prompt_S = slots_S < self.prompt_slots
        lengths_B1 = self.lengths_B[:, None]
        position_BS = jnp.where(
            is_prompt_S[None], slots_S[None], lengths_B1 + slots_S[None] - self.prompt_slots
        )
        empty_BS = is_prompt_S[None] & (slots_S[None] >= lengths_B1)
        return jnp.where(empty_BS, -1, lengths_B1 + index - position_BS)
