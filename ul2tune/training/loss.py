"""The training objective: its settings, and T5X's modes of normalising it.

`cross_entropy` has the loss itself. Axes: B batch, L target length.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated

import jax
import jax.numpy as jnp

from ul2tune.types import Array, Batch

NORMALIZERS = (
    "sum",
    "num_real_target_tokens",
    "num_total_target_tokens",
    "average_per_sequence",
)


@dataclass(frozen=True, kw_only=True)
class LossConfig:
    """What is minimised.

    Attributes:
      z_loss: coefficient of ``log(Z)^2`` per token, Z the softmax normaliser (1e-4 in T5 1.1; 0
        turns it off).
      label_smoothing: probability mass spread over the V - 1 wrong tokens. As in T5X, the entropy
        of the smoothed target is subtracted, so that a perfect model has loss 0.
      normalizer: what the weighted sum of token losses is divided by; T5X's
        `loss_normalizing_factor`, in either case: None or ``"sum"`` nothing; a number;
        ``"num_real_target_tokens"`` the sum of the loss weights; ``"num_total_target_tokens"`` B *
        L, padding included; ``"average_per_sequence"`` the mean over sequences (packed segments) of
        their mean token loss. DIVERGES: T5X's default is the sum, which only a scale-free optimiser
        such as Adafactor stands; ours is one that suits gradient clipping and AdamW too.
      chunk_tokens: target positions per chunk *of one data-parallel group*. A chunk's float32
        logits are chunk_tokens x V x 4 bytes (2048 x 32128: 263 MB), divided by the tensor axis.
        Larger chunks read and write the head's gradient less often; a batch of no more tokens than
        this is one chunk.
    """

    z_loss: float = 1e-4
    label_smoothing: float = 0.0
    normalizer: Annotated[str, NORMALIZERS] | float | None = "num_real_target_tokens"
    chunk_tokens: int = 2048

    def __post_init__(self):
        if not 0 <= self.z_loss < math.inf:
            raise ValueError(
                f"LossConfig.z_loss = {self.z_loss} is not a number of at least 0; 0 turns it off."
            )
        if not 0 <= self.label_smoothing < 1:
            raise ValueError(
                f"LossConfig.label_smoothing = {self.label_smoothing} is not in [0, 1)."
            )
        if self.chunk_tokens < 1:
            raise ValueError(f"LossConfig.chunk_tokens = {self.chunk_tokens} must be at least 1.")
        if isinstance(self.normalizer, str):
            if self.normalizer.lower() not in NORMALIZERS:
                raise ValueError(
                    f"LossConfig.normalizer = {self.normalizer!r} is unknown; use a number, None "
                    f"(no normalising), or one of {', '.join(NORMALIZERS)}."
                )
        elif self.normalizer is not None and (
            isinstance(self.normalizer, bool) or not 0 < self.normalizer < math.inf
        ):
            raise ValueError(
                f"LossConfig.normalizer = {self.normalizer} must be a positive number; None turns "
                f"it off."
            )


def loss_weights(batch: Batch, config: LossConfig) -> tuple[jax.Array, jax.Array]:
    """Returns ``(weights_BL, normalizer)``: the objective is ``sum(output.loss_BL) / normalizer``.

    Neither depends on the model: with gradient accumulation, compute them on the whole batch, give
    each microbatch its rows of the weights, and the gradients of ``sum(loss_BL) / normalizer``
    simply add up, exact to the token.

    The weights are `decoder_loss_weights`, or 1 at non-padding targets where the batch has none;
    ``"average_per_sequence"`` divides them by their sum over the sequence (per
    `decoder_segment_ids` if packed). Reference: T5X
    `losses.get_loss_normalizing_factor_and_weights`.

    NUMERICS: a batch without any weight has normalizer 1e-9 and therefore loss 0.
    DIVERGES: that is NaN in T5X, which also counts padding where a batch has no loss weights and
    the mode is None or a number.
    """
    targets_BL = jnp.asarray(batch["decoder_target_tokens"])
    weights = batch.get("decoder_loss_weights")
    weights_BL = jnp.asarray(targets_BL > 0 if weights is None else weights, jnp.float32)
    mode = config.normalizer.lower() if isinstance(config.normalizer, str) else config.normalizer
    if mode is None or mode == "sum":
        return weights_BL, jnp.float32(1.0)
    if mode == "num_total_target_tokens":
        return weights_BL, jnp.float32(targets_BL.size)
    if not isinstance(mode, str):
        return weights_BL, jnp.float32(mode)
    if mode == "average_per_sequence":
        sums_BL = _sums_per_sequence(weights_BL, batch.get("decoder_segment_ids"))
        weights_BL = jnp.where(sums_BL > 0, weights_BL / jnp.where(sums_BL > 0, sums_BL, 1), 0)
    return weights_BL, jnp.maximum(jnp.sum(weights_BL), 1e-9)


def _sums_per_sequence(weights_BL: jax.Array, segment_ids: Array | None) -> jax.Array:
    """Every token's sum of weights over its own sequence; padding, segment 0, is none."""
    if segment_ids is None:
        return jnp.broadcast_to(jnp.sum(weights_BL, axis=1, keepdims=True), weights_BL.shape)

    def row(weights_L, segments_L):
        # Numbered anew from 0: segments without targets count too, so ids may exceed L.
        starts_L = jnp.diff(segments_L, prepend=segments_L[:1]) != 0
        number_L = jnp.cumsum(starts_L)
        sums = jax.ops.segment_sum(weights_L, number_L, num_segments=segments_L.size)
        return jnp.where(segments_L != 0, sums[number_L], 0)

    return jax.vmap(row)(weights_BL, jnp.asarray(segment_ids))
