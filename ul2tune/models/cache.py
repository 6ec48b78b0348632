"""What decoding remembers: keys and values of every layer.

Heads come before positions, as the products of attention read them: otherwise XLA would transpose
the whole cache for every token.

Axes: N layers, B batch, P prompts, W beams of a prompt, L target length, S source length or slots,
H heads, K key/value heads, A head size. T5 has K = H. B = P, or P * W with the beams of a prompt
one after the other.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field

import jax
import jax.numpy as jnp

from ul2tune.sharding import constrain
from ul2tune.types import Batch

AXES = ("layers", "batch", "kv_heads", "length", "kv")


def refuse_packed(batch: Batch) -> None:
    """Raises ValueError for rows of several prompts: a row is decoded from its first position."""
    if "encoder_segment_ids" in batch:
        raise ValueError(
            "start_decoding got a packed batch (it has encoder_segment_ids); give every example "
            "its own row."
        )


@jax.tree_util.register_dataclass
@dataclass(frozen=True, kw_only=True)
class DecodeCache:
    """A pytree; every array has the batch as its second axis, `source_PS` as its first.

    Attributes:
      self_key: [N, B, K, L, A], of the positions decoded so far; zeros after them.
      self_value: [N, B, K, L, A].
      cross_key: [N, P, K, S, A], computed once from the encoder's output.
      cross_value: [N, P, K, S, A].
      source_PS: segment ids of the source: 1 at real tokens, 0 at padding.
    """

    self_key: jax.Array
    self_value: jax.Array
    cross_key: jax.Array
    cross_value: jax.Array
    source_PS: jax.Array

    @classmethod
    def start(
        cls, cross_key: jax.Array, cross_value: jax.Array, source_PS: jax.Array, length: int
    ) -> DecodeCache:
        """Returns a cache with room for `length` target positions, none of them decoded."""
        layers, batch, heads, _, size = cross_key.shape
        empty = jnp.zeros((layers, batch, heads, length, size), cross_key.dtype)
        return cls(
            self_key=constrain(empty, *AXES),
            self_value=constrain(empty, *AXES),
            cross_key=constrain(cross_key, *AXES),
            cross_value=constrain(cross_value, *AXES),
            source_PS=source_PS,
        )

    def append(
        self, layer: jax.Array, index: jax.Array | int, key_B1KA: jax.Array, value_B1KA: jax.Array
    ) -> DecodeCache:
        """Writes one position of one layer."""
        return dataclasses.replace(
            self,
            self_key=_updated(self.self_key, layer, index, key_B1KA),
            self_value=_updated(self.self_value, layer, index, value_B1KA),
        )

    def for_beams(self, num_beams: int) -> DecodeCache:
        """Room for `num_beams` continuations of every prompt, which share its source."""
        return dataclasses.replace(
            self,
            self_key=_repeated(self.self_key, num_beams),
            self_value=_repeated(self.self_value, num_beams),
        )

    def reordered(self, beams_PW: jax.Array) -> DecodeCache:
        """Lets every beam go on from the one of its prompt that `beams_PW` names."""
        return dataclasses.replace(
            self,
            self_key=_reordered(self.self_key, beams_PW),
            self_value=_reordered(self.self_value, beams_PW),
        )


def _updated(
    cache_NBKSA: jax.Array, layer: jax.Array, slot: jax.Array | int, new_BSKA: jax.Array
) -> jax.Array:
    new_NBKSA = jnp.swapaxes(new_BSKA, 1, 2)[None]
    return jax.lax.dynamic_update_slice(cache_NBKSA, new_NBKSA, (layer, 0, 0, slot, 0))


def _repeated(cache_NPKSA: jax.Array, num_beams: int) -> jax.Array:
    return constrain(jnp.repeat(cache_NPKSA, num_beams, axis=1), *AXES)


def _reordered(cache_NBKSA: jax.Array, beams_PW: jax.Array) -> jax.Array:
    # Indexed within each prompt: with one index into all rows B, XLA could not tell that beams stay
    # on their device, and would gather the whole cache on every device.
    layers, _, *rest = cache_NBKSA.shape
    cache_NPWKSA = cache_NBKSA.reshape(layers, *beams_PW.shape, *rest)
    pick = jax.vmap(lambda cache_NWKSA, beams_W: cache_NWKSA[:, beams_W], (1, 0), 1)
    return constrain(pick(cache_NPWKSA, beams_PW).reshape(cache_NBKSA.shape), *AXES)


@jax.tree_util.register_dataclass
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
      key: [N, B, K, prompt_slots + L, A].
      value: of the same shape.
      lengths_B: tokens of each prompt: the position that step 0 reads.
      last_B: the prompt's last token, which step 0 reads; the start token of an empty prompt.
      prompt_slots: slots for prompts.
    """

    key: jax.Array
    value: jax.Array
    lengths_B: jax.Array
    last_B: jax.Array
    prompt_slots: int = field(metadata={"static": True})

    def write(
        self, layer: jax.Array, slot: jax.Array | int, key_BSKA: jax.Array, value_BSKA: jax.Array
    ) -> PromptCache:
        """Writes the slots of one layer from `slot` on."""
        return dataclasses.replace(
            self,
            key=_updated(self.key, layer, slot, key_BSKA),
            value=_updated(self.value, layer, slot, value_BSKA),
        )

    def for_beams(self, num_beams: int) -> PromptCache:
        """`num_beams` copies of every prompt.

        The prompt's keys are copied too, although its beams share them: prompt and decoded tokens
        lie in one array, which one product reads. In two arrays, every layer would need two
        products and one softmax over both for every token.
        """
        return dataclasses.replace(
            self,
            key=_repeated(self.key, num_beams),
            value=_repeated(self.value, num_beams),
            lengths_B=jnp.repeat(self.lengths_B, num_beams),
            last_B=jnp.repeat(self.last_B, num_beams),
        )

    def reordered(self, beams_PW: jax.Array) -> PromptCache:
        """Lets every beam go on from the one of its prompt that `beams_PW` names.

        Only decoded slots move: those of the prompt are the same for all of its beams.
        """

        def moved(cache_NBKSA: jax.Array) -> jax.Array:
            decoded_NBKSA = _reordered(cache_NBKSA[:, :, :, self.prompt_slots :], beams_PW)
            return cache_NBKSA.at[:, :, :, self.prompt_slots :].set(decoded_NBKSA)

        return dataclasses.replace(self, key=moved(self.key), value=moved(self.value))

    @property
    def num_slots(self) -> int:
        """Of prompts and decoded tokens."""
        return self.key.shape[3]

    def distances(self, index: jax.Array | int) -> jax.Array:
        """How far behind the token of step `index` every slot's is, [B, slots]; negative where the
        slot is empty or to come."""
        slots_S = jnp.arange(self.num_slots)
        is_prompt_S = slots_S < self.prompt_slots
        lengths_B1 = self.lengths_B[:, None]
        position_BS = jnp.where(
            is_prompt_S[None], slots_S[None], lengths_B1 + slots_S[None] - self.prompt_slots
        )
        empty_BS = is_prompt_S[None] & (slots_S[None] >= lengths_B1)
        return jnp.where(empty_BS, -1, lengths_B1 + index - position_BS)
