"""How to generate, and from logits to the next token: greedy, or a draw by temperature, top-k and
top-p.

Axis legend: B batch, V vocabulary.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import jax
import jax.numpy as jnp

from ul2tune import sharding

# NUMERICS: far below it logits overflow when divided, and the first of several infinities is drawn.
_COLDEST = 1e-6


@dataclass(frozen=True, kw_only=True)
class SamplingConfig:
    """How to generate.

    Attributes:
      max_decode_length: at most so many tokens, end of sequence included.
      temperature: 0 = greedy; otherwise logits are divided by it before drawing.
      top_k: draw among the k likeliest tokens only; 0 = all.
      top_p: draw among the likeliest tokens that together reach this probability (Holtzman et al.
        2020, arXiv:1904.09751); 1 = all. Applied after `top_k` and temperature.
      seed: of the draws; with an example's name it decides the example's whole continuation.
      num_beams: 1 = none of what follows; otherwise beam search with so many, see `beam`.
      beam_alpha: of an answer of n tokens the log-likelihood is divided by
        ``((5 + n) / 6) ** beam_alpha``: 0 prefers short answers, above 1 long ones. T5's and T5X's
        is 0.6.

    Raises:
      ValueError: on values out of range, or that the others would leave without effect.
    """

    max_decode_length: int = 64
    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    seed: int = 0
    num_beams: int = 1
    beam_alpha: float = 0.6

    def __post_init__(self) -> None:
        if self.max_decode_length < 1:
            raise ValueError(f"max_decode_length must be positive, got {self.max_decode_length}.")
        if self.temperature != 0 and not _COLDEST <= self.temperature < math.inf:
            raise ValueError(
                f"temperature must be 0 (greedy), or finite and at least {_COLDEST} for float32 "
                f"logits to be divided by it, got {self.temperature}."
            )
        if self.top_k < 0:
            raise ValueError(f"top_k must be 0 (off) or more, got {self.top_k}.")
        if not 0.0 < self.top_p <= 1.0:
            raise ValueError(f"top_p must be in (0, 1], got {self.top_p}.")
        if not 0 <= self.seed < 2**32:
            raise ValueError(f"seed must be in [0, 2**32), got {self.seed}.")
        self._check_beams()
        if self.temperature == 0 and (self.top_k or self.top_p < 1):
            raise ValueError(
                f"top_k = {self.top_k} and top_p = {self.top_p} do nothing with temperature = 0 "
                f"(greedy). Set a temperature, such as 1.0, or leave them out."
            )

    def _check_beams(self) -> None:
        if self.num_beams < 1:
            raise ValueError(f"num_beams must be 1 (no beam search) or more, got {self.num_beams}.")
        # A negative one would let hypotheses that have not ended overtake all that have.
        if not 0 <= self.beam_alpha < math.inf:
            raise ValueError(f"beam_alpha must be 0 or more, and finite, got {self.beam_alpha}.")
        if self.num_beams > 1 and (self.temperature != 0 or self.top_k or self.top_p < 1):
            raise ValueError(
                f"temperature = {self.temperature}, top_k = {self.top_k} and top_p = {self.top_p} "
                f"do nothing with num_beams = {self.num_beams}: beam search draws nothing. Leave "
                f"them out, or set num_beams to 1."
            )
        if self.num_beams == 1 and self.beam_alpha != SamplingConfig.beam_alpha:
            raise ValueError(
                f"beam_alpha = {self.beam_alpha} does nothing with num_beams = 1. Set num_beams, "
                f"such as 4, or leave it out."
            )


def next_tokens(
    logits_BV: jax.Array, config: SamplingConfig, keys_B: jax.Array, step: jax.Array | int
) -> jax.Array:
    """Chooses one token per row.

    Args:
      logits_BV: float32.
      config: how.
      keys_B: one typed PRNG key per row, see :func:`row_keys`; unused when greedy.
      step: position being decoded; the draw is a pure function of (key, step, logits).

    Returns:
      int32 token ids [B]; on a tie the lowest id.
    """
    if config.temperature == 0:
        return jnp.argmax(logits_BV, axis=-1).astype(jnp.int32)
    logits_BV = keep_top_k(logits_BV, config.top_k) if config.top_k else logits_BV
    logits_BV = logits_BV / config.temperature
    logits_BV = keep_top_p(logits_BV, config.top_p) if config.top_p < 1 else logits_BV

    def draw(key, logits_V):
        return jax.random.categorical(jax.random.fold_in(key, step), logits_V)

    return jax.vmap(draw)(keys_B, logits_BV).astype(jnp.int32)


def row_keys(seed: int, names_B2: jax.Array) -> jax.Array:
    """One typed PRNG key per row from the seed and the 64-bit hash of the example's name.

    Keyed by example and not by row, so that a continuation depends neither on the batch size, nor
    on the place in the batch, nor on the number of devices.

    Args:
      seed: of the run.
      names_B2: uint32, the two halves of each example's hash.
    """

    def key(name_2):
        return jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), name_2[0]), name_2[1])

    return jax.vmap(key)(names_B2)


def keep_top_k(logits_BV: jax.Array, k: int) -> jax.Array:
    """Sets all but the `k` largest logits to -inf; those equal to the k-th stay."""
    count = min(k, logits_BV.shape[-1])
    smallest_B1 = sharding.by_rows(lambda own: jax.lax.top_k(own, count)[0][:, -1:], logits_BV)
    return jnp.where(logits_BV < smallest_B1, -jnp.inf, logits_BV)


def keep_top_p(logits_BV: jax.Array, p: float) -> jax.Array:
    """Sets logits outside the nucleus to -inf: the smallest set of likeliest tokens of mass >= p.

    The likeliest token always stays. With probabilities .5 .3 .15 .05, p = .7 keeps the first two.
    """
    sorted_BV = jnp.sort(logits_BV, axis=-1, descending=True)
    probabilities_BV = jax.nn.softmax(sorted_BV, axis=-1)
    before_BV = jnp.cumsum(probabilities_BV, axis=-1) - probabilities_BV
    smallest_B1 = jnp.min(jnp.where(before_BV < p, sorted_BV, jnp.inf), axis=-1, keepdims=True)
    # Without this, a p that is 0 in float32 would keep nothing.
    smallest_B1 = jnp.minimum(smallest_B1, sorted_BV[:, :1])
    return jnp.where(logits_BV < smallest_B1, -jnp.inf, logits_BV)
