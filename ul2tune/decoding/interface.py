"""What every way of generating asks of a model, keeps to, and hands back.

Axis legend: B batch, L target length, V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import jax
import jax.numpy as jnp

from ul2tune.types import Batch


class DecodingModel(Protocol):
    """What generation needs of a model, bound to its parameters. Its cache is opaque; beam search
    also calls `for_beams` and `reordered` of it, see `models.cache.DecodeCache`."""

    def start_decoding(self, batch: Batch, *, max_decode_length: int) -> Any: ...

    def unstacked(self) -> DecodingModel: ...

    def decode_step(
        self, cache: Any, tokens_B: jax.Array, index: jax.Array | int
    ) -> tuple[jax.Array, Any]: ...


@dataclass(frozen=True, kw_only=True)
class Rules:
    """Which ids may be generated, and which of them end a row.

    Attributes:
      num_ids: ids of the vocabulary; the rows an embedding is padded with are never generated.
      eos_id: ends a row.
      pad_id: what follows the end; may be `eos_id`. The padding and the start symbol of batches
        are 0 in every vocabulary.
      stops_B: int32, one more id per row that ends it; None = none.
    """

    num_ids: int
    eos_id: int = 1
    pad_id: int = 0
    stops_B: jax.Array | None = None

    def allowed(self, logits_BV: jax.Array) -> jax.Array:
        """The logits, -inf where an id is never generated."""
        allowed_V = jnp.arange(logits_BV.shape[-1]) < self.num_ids
        # Padding is not text: T5 never learns it as a target, an untrained model may like it.
        if self.pad_id != self.eos_id:
            allowed_V &= jnp.arange(logits_BV.shape[-1]) != self.pad_id
        return jnp.where(allowed_V[None], logits_BV, -jnp.inf)

    def ended(self, tokens: jax.Array) -> jax.Array:
        """Whether these tokens, [B] or several per row [B, C], are the last of their rows."""
        ended = tokens == self.eos_id
        if self.stops_B is not None:
            ended |= tokens == (self.stops_B if tokens.ndim == 1 else self.stops_B[:, None])
        return ended


@jax.tree_util.register_dataclass
@dataclass(frozen=True, kw_only=True)
class Generated:
    """What was generated.

    Attributes:
      tokens_BL: int32 [B, max_decode_length]: the continuation, its end of sequence or stop,
        padding.
      finite_B: False where the largest logit of a step was NaN or infinite. The row's tokens then
        mean nothing: the arg max of NaNs is the lowest id, which may be the end of sequence.
    """

    tokens_BL: jax.Array
    finite_B: jax.Array


def empty_rows(batch: Batch) -> jax.Array:
    """Whether a row is only padding, [B]: it fills up a batch."""
    side = "encoder" if "encoder_input_tokens" in batch else "decoder"
    # Decoder-only prompts may begin or be nothing but 0, the start token: segment ids tell.
    ids = batch.get("decoder_segment_ids", batch[f"{side}_input_tokens"])
    return jnp.all(jnp.asarray(ids) == 0, axis=-1)
