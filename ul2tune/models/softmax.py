"""Softmax over the keys, times the values, with a gradient that passes fewer times over [L, S].

Differs from autodiff of ``softmax(logits) @ values`` as FlashAttention does (arXiv:2205.14135,
algorithm 4): the weights stay unnormalised, and what the softmax' gradient sums over the keys is
summed over the head size instead, from the output.

Axes: B batch, L query length, S key length, H heads, K key/value heads, A head size.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from ul2tune.models import grouped
from ul2tune.models.visibility import MASKED


@jax.custom_vjp
def softmax_mix(logits_BHLS: jax.Array, mask_BLS: jax.Array, value_BSKA: jax.Array) -> jax.Array:
    """Returns ``softmax(logits where mask) value`` as [B, L, H, A].

    Args:
      logits_BHLS: float32.
      mask_BLS: True where a query sees a key. A query that sees none averages all values.
      value_BSKA: values; K divides H, see `grouped`.
    """
    return _forward(logits_BHLS, mask_BLS, value_BSKA)[0]


def _forward(logits_BHLS, mask_BLS, value_BSKA) -> tuple[jax.Array, Any]:
    logits_BHLS = jnp.where(mask_BLS[:, None], logits_BHLS, MASKED)
    weights_BHLS = jnp.exp(logits_BHLS - jnp.max(logits_BHLS, axis=-1, keepdims=True))
    sum_BHL = jnp.sum(weights_BHLS, axis=-1)
    # NUMERICS: softmax in float32; its weights are rounded to the compute dtype for the product,
    # and kept so for the gradient.
    weights_BHLS = weights_BHLS.astype(value_BSKA.dtype)
    mixed_BHLA = grouped.mix(weights_BHLS, value_BSKA, jnp.float32) / sum_BHL[..., None]
    out_BLHA = jnp.moveaxis(mixed_BHLA, 1, 2).astype(value_BSKA.dtype)
    return out_BLHA, (weights_BHLS, sum_BHL, out_BLHA, mask_BLS, value_BSKA)


def _backward(residuals, grad_BLHA) -> tuple[jax.Array, None, jax.Array]:
    weights_BHLS, sum_BHL, out_BLHA, mask_BLS, value_BSKA = residuals
    sum_BLH1 = jnp.moveaxis(sum_BHL, 1, 2)[..., None]
    scaled_BLHA = (grad_BLHA / sum_BLH1).astype(value_BSKA.dtype)
    value_grad = grouped.gather(weights_BHLS, scaled_BLHA, value_BSKA.shape[2])
    products_BLHA = grad_BLHA.astype(jnp.float32) * out_BLHA.astype(jnp.float32)
    delta_BHL = jnp.moveaxis(jnp.sum(products_BLHA, axis=-1), 1, 2)
    # Masked keys have no weight, and so no gradient, but of queries that see none.
    seen_B1L = jnp.any(mask_BLS, axis=-1)[:, None]
    scale_BHL = jnp.where(seen_B1L, 1 / sum_BHL, 0)
    weights_grad_BHLS = grouped.scores(grad_BLHA, value_BSKA)
    centred_BHLS = (weights_grad_BHLS - delta_BHL[..., None]) * scale_BHL[..., None]
    return weights_BHLS * centred_BHLS, None, value_grad


softmax_mix.defvjp(_forward, _backward)
