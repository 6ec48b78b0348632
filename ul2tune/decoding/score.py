"""Log-likelihood of given targets, for rank classification.

Axis legend: B batch, L target length, D model, V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import jax
import jax.numpy as jnp

from ul2tune.models import layers
from ul2tune.types import Batch


class ScoringModel(Protocol):
    """What scoring needs of a model, bound to its parameters."""

    logit_softcap: float | None

    def hidden(self, batch: Batch) -> jax.Array: ...

    def head_kernel(self) -> jax.Array: ...


@jax.tree_util.register_dataclass
@dataclass(frozen=True, kw_only=True)
class Scores:
    """Per row: summed log-likelihood (nats, float32), the number of tokens it sums over, and the
    summands (0 where a position does not count).
    """

    sum_B: jax.Array
    length_B: jax.Array
    tokens_BL: jax.Array


def score(model: ScoringModel, batch: Batch) -> Scores:
    """Scores `decoder_target_tokens` where `decoder_loss_weights` is 1.

    The end of sequence counts if the targets hold it (T0 and T5 count it). Logits exist for one
    target position at a time, so memory is [B, V] and not [B, L, V].

    NUMERICS: products in the model's dtype with float32 accumulation, as in the loss; the
    log-softmax and the sum over positions in float32.

    Args:
      model: bound to its parameters; this function runs inside `jax.jit`.
      batch: features as the model's `hidden` reads them, one target per row.
    """
    hidden_BLD = model.hidden(batch)
    head_VD = model.head_kernel().astype(hidden_BLD.dtype)  # once, before the loop
    targets_BL = jnp.asarray(batch["decoder_target_tokens"])
    weights_BL = jnp.asarray(batch["decoder_loss_weights"], jnp.float32)

    def one_position(columns):
        hidden_BD, targets_B = columns
        logits_BV = layers.logits(hidden_BD, head_VD, model.logit_softcap)
        chosen_B = jnp.take_along_axis(logits_BV, targets_B[:, None], axis=-1)[:, 0]
        return chosen_B - jax.nn.logsumexp(logits_BV, axis=-1)

    logps_LB = jax.lax.map(one_position, (jnp.moveaxis(hidden_BLD, 1, 0), targets_BL.T))
    tokens_BL = logps_LB.T * weights_BL
    return Scores(
        tokens_BL=tokens_BL,
        sum_B=jnp.sum(tokens_BL, axis=-1),
        length_B=jnp.sum(weights_BL, axis=-1).astype(jnp.int32),
    )
