"""Generation with a key/value cache: one frozen state, one `while_loop`.

Axis legend: B batch, L target length, V vocabulary.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any, Protocol

import jax
import jax.numpy as jnp

from ul2tune.decoding.sampling import SamplingConfig, next_tokens, row_keys
from ul2tune.types import Batch


class DecodingModel(Protocol):
    """What generation needs of a model, bound to its parameters."""

    def start_decoding(self, batch: Batch, *, max_decode_length: int) -> Any: ...

    def unstacked(self) -> DecodingModel: ...

    def decode_step(
        self, cache: Any, tokens_B: jax.Array, index: jax.Array | int
    ) -> tuple[jax.Array, Any]: ...


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=["step", "tokens_BL", "last_B", "done_B", "finite_B", "keys_B", "cache"],
    meta_fields=[],
)
@dataclass(frozen=True, kw_only=True)
class DecodeState:
    """Everything the loop carries.

    Attributes:
      step: position decoded next, a scalar.
      tokens_BL: what was generated; padding from `step` on and after a row's end of sequence.
      last_B: the token each row is fed next (0, which stands for the start, at position 0).
      done_B: whether the row has generated its end of sequence, or its stop.
      finite_B: whether all of the row's tokens were chosen from logits with a finite maximum.
      keys_B: the rows' PRNG keys; constant.
      cache: the model's, opaque.
    """

    step: jax.Array
    tokens_BL: jax.Array
    last_B: jax.Array
    done_B: jax.Array
    finite_B: jax.Array
    keys_B: jax.Array
    cache: Any


@functools.partial(
    jax.tree_util.register_dataclass, data_fields=["tokens_BL", "finite_B"], meta_fields=[]
)
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


def generate(
    model: DecodingModel,
    batch: Batch,
    config: SamplingConfig,
    names_B2: jax.Array,
    *,
    num_ids: int,
    eos_id: int = 1,
    pad_id: int = 0,
    stops_B: jax.Array | None = None,
) -> Generated:
    """Generates a continuation per row.

    Stops when all rows have ended or at `max_decode_length`. A row that is only padding (it fills
    up a batch) counts as ended from the start.

    Args:
      model: bound to its parameters; this function runs inside `jax.jit`.
      batch: `encoder_input_tokens` [B, S], or for a decoder-only model prompts as its
        `start_decoding` takes them; not packed.
      config: static.
      names_B2: uint32 halves of the hash of each example's name, see `sampling.row_keys`.
      num_ids: ids of the vocabulary; the rows an embedding is padded with are never generated.
      eos_id: ends a row.
      pad_id: what follows the end; may be `eos_id`. The padding and the start symbol of batches
        are 0 in every vocabulary.
      stops_B: int32, one more id per row that ends it; None = none.
    """
    length, looped = config.max_decode_length, model.unstacked()
    side = "encoder" if "encoder_input_tokens" in batch else "decoder"
    # Decoder-only prompts may begin or be nothing but 0, the start token: segment ids tell.
    ids = batch.get("decoder_segment_ids", batch[f"{side}_input_tokens"])
    empty_B = jnp.all(jnp.asarray(ids) == 0, axis=-1)

    def unfinished(state: DecodeState) -> jax.Array:
        return (state.step < length) & ~jnp.all(state.done_B)

    def decode(state: DecodeState) -> DecodeState:
        logits_BV, cache = looped.decode_step(state.cache, state.last_B, state.step)
        allowed_V = jnp.arange(logits_BV.shape[-1]) < num_ids
        # Padding is not text: T5 never learns it as a target, an untrained model may like it.
        if pad_id != eos_id:
            allowed_V &= jnp.arange(logits_BV.shape[-1]) != pad_id
        logits_BV = jnp.where(allowed_V[None], logits_BV, -jnp.inf)
        chosen_B = next_tokens(logits_BV, config, state.keys_B, state.step)
        chosen_B = jnp.where(state.done_B, pad_id, chosen_B)
        ended_B = chosen_B == eos_id
        if stops_B is not None:
            ended_B |= chosen_B == stops_B
        finite_B = jnp.isfinite(jnp.max(logits_BV, axis=-1))
        return DecodeState(
            step=state.step + 1,
            tokens_BL=state.tokens_BL.at[:, state.step].set(chosen_B),
            last_B=chosen_B,
            done_B=state.done_B | ended_B,
            finite_B=state.finite_B & (state.done_B | finite_B),
            keys_B=state.keys_B,
            cache=cache,
        )

    start = DecodeState(
        step=jnp.zeros((), jnp.int32),
        tokens_BL=jnp.full((empty_B.shape[0], length), pad_id, jnp.int32),
        last_B=jnp.zeros(empty_B.shape, jnp.int32),
        done_B=empty_B,
        finite_B=jnp.ones(empty_B.shape, bool),
        keys_B=row_keys(config.seed, names_B2),
        cache=model.start_decoding(batch, max_decode_length=length),
    )
    end = jax.lax.while_loop(unfinished, decode, start)
    return Generated(tokens_BL=end.tokens_BL, finite_B=end.finite_B)
