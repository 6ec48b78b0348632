"""Generation with a key/value cache: one frozen state, one `while_loop`. Beams have a loop of their
own, in `beam`.

Axis legend: B batch, L target length, V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from ul2tune.decoding import beam
from ul2tune.decoding.interface import DecodingModel, Generated, Rules, empty_rows
from ul2tune.decoding.sampling import SamplingConfig, next_tokens, row_keys
from ul2tune.types import Batch


@jax.tree_util.register_dataclass
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


def generate(
    model: DecodingModel,
    batch: Batch,
    config: SamplingConfig,
    rules: Rules,
    names_B2: jax.Array,
) -> Generated:
    """Generates a continuation per row: greedily, by draws, or as the best that beam search finds.

    Stops when all rows have ended or at `max_decode_length`. A row that is only padding (it fills
    up a batch) counts as ended from the start.

    Args:
      model: bound to its parameters; this function runs inside `jax.jit`.
      batch: `encoder_input_tokens` [B, S], or for a decoder-only model prompts as its
        `start_decoding` takes them; not packed.
      config: static.
      rules: what may be generated, and what ends a row.
      names_B2: uint32 halves of the hash of each example's name, see `sampling.row_keys`.
    """
    if config.num_beams > 1:
        return beam.search(model, batch, config, rules)
    return _one_by_one(model, batch, config, rules, names_B2)


def _one_by_one(
    model: DecodingModel,
    batch: Batch,
    config: SamplingConfig,
    rules: Rules,
    names_B2: jax.Array,
) -> Generated:
    """Chooses each token for good: the likeliest, or a draw."""
    length, looped = config.max_decode_length, model.unstacked()
    empty_B = empty_rows(batch)

    def unfinished(state: DecodeState) -> jax.Array:
        return (state.step < length) & ~jnp.all(state.done_B)

    def decode(state: DecodeState) -> DecodeState:
        logits_BV, cache = looped.decode_step(state.cache, state.last_B, state.step)
        logits_BV = rules.allowed(logits_BV)
        chosen_B = next_tokens(logits_BV, config, state.keys_B, state.step)
        chosen_B = jnp.where(state.done_B, rules.pad_id, chosen_B)
        ended_B = rules.ended(chosen_B)
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
        tokens_BL=jnp.full((empty_B.shape[0], length), rules.pad_id, jnp.int32),
        last_B=jnp.zeros(empty_B.shape, jnp.int32),
        done_B=empty_B,
        finite_B=jnp.ones(empty_B.shape, bool),
        keys_B=row_keys(config.seed, names_B2),
        cache=model.start_decoding(batch, max_decode_length=length),
    )
    end = jax.lax.while_loop(unfinished, decode, start)
    return Generated(tokens_BL=end.tokens_BL, finite_B=end.finite_B)
