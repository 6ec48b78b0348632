"""Softmax over the keys, times the values, with a gradient that passes fewer times over [L, S].

Differs from autodiff of ``softmax(logits) @ values`` in two things. The weights stay unnormalised,
and the output [L, A] is divided instead (FlashAttention-2, arXiv:2307.08691, section 3.1). And the
gradient of the softmax needs ``sum_s weights * dweights`` per query, which equals ``sum_a out *
dout``: a sum over [L, A] instead of [L, S] (FlashAttention, arXiv:2205.14135, algorithm 4).

Axes: B batch, L query length, S key length, H heads, K key/value heads, A head size.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from ul2tune.models import grouped
from ul2tune.models.linear import materialized
from ul2tune.models.visibility import MASKED


@jax.custom_vjp
def softmax_mix(logits_BHLS: jax.Array, mask_BLS: jax.Array, value_BKSA: jax.Array) -> jax.Array:
    """Returns ``softmax(logits where mask) value`` as [B, L, H, A].

    Args:
      logits_BHLS: float32.
      mask_BLS: True where a query sees a key. A query that sees none gets 0, the sum over nothing:
        a mean over all keys would show it other segments' and depend on the row's padding.
      value_BKSA: values; K divides H, see `grouped`.
    """
    return _forward(logits_BHLS, mask_BLS, value_BKSA)[0]


def _forward(logits_BHLS, mask_BLS, value_BKSA) -> tuple[jax.Array, Any]:
    logits_BHLS = jnp.where(mask_BLS[:, None], logits_BHLS, MASKED)
    weights_BHLS = jnp.exp(logits_BHLS - jnp.max(logits_BHLS, axis=-1, keepdims=True))
    sum_BHL = divisor(jnp.any(mask_BLS, axis=-1)[:, None], jnp.sum(weights_BHLS, axis=-1))
    # NUMERICS: softmax in float32; its weights are rounded to the compute dtype for the product,
    # and kept so for the gradient.
    weights_BHLS = weights_BHLS.astype(value_BKSA.dtype)
    mixed_BHLA = grouped.mix(weights_BHLS, value_BKSA, jnp.float32) / sum_BHL[..., None]
    out_BLHA = jnp.swapaxes(materialized(mixed_BHLA), 1, 2).astype(value_BKSA.dtype)
    return out_BLHA, (weights_BHLS, sum_BHL, out_BLHA, value_BKSA)


def _backward(residuals, grad_BLHA) -> tuple[jax.Array, None, jax.Array]:
    weights_BHLS, sum_BHL, out_BLHA, value_BKSA = residuals
    delta_BHL = delta(out_BLHA, grad_BLHA)
    logits_grad, value_grad = gradients(weights_BHLS, sum_BHL, delta_BHL, grad_BLHA, value_BKSA)
    return logits_grad, None, value_grad


softmax_mix.defvjp(_forward, _backward)


def divisor(seeing_BHL: jax.Array, sum_BHL: jax.Array) -> jax.Array:
    """Returns what weights are divided by: their sum, but infinity for queries that see no key,
    whose output and gradients are then 0.

    DIVERGES: T5X and Transformers average all values there. Only empty inputs (without even an EOS)
    lead to such a query.

    NUMERICS: this touches [B, H, L] only, where masking the output would touch [B, L, H, A]; and a
    sum that is NaN stays NaN.
    """
    return jnp.where(seeing_BHL, sum_BHL, jnp.inf)


def delta(out_BLHA: jax.Array, grad_BLHA: jax.Array) -> jax.Array:
    """What the gradient of the logits subtracts, float32 [B, H, L]: the mean of the weights'
    gradient over the keys, weighted by the weights themselves."""
    products_BLHA = grad_BLHA.astype(jnp.float32) * out_BLHA.astype(jnp.float32)
    return jnp.swapaxes(jnp.sum(products_BLHA, axis=-1), 1, 2)


def gradients(
    weights_BHLS: jax.Array,
    sum_BHL: jax.Array,
    delta_BHL: jax.Array,
    grad_BLHA: jax.Array,
    value_BKSA: jax.Array,
) -> tuple[jax.Array, jax.Array]:
    """Gradients of the logits (float32) and of the values, for some or all keys.

    Args:
      weights_BHLS: exp(logits), not normalised.
      sum_BHL: their sum over all keys, see :func:`divisor`.
      delta_BHL: see :func:`delta`.
      grad_BLHA: gradient of the output.
      value_BKSA: the keys' values.
    """
    sum_BLH1 = jnp.swapaxes(sum_BHL, 1, 2)[..., None]
    # NUMERICS: the values' gradient takes the divided gradient, the logits' the gradient itself: in
    # bfloat16 its rounding after the division would add a third to their error.
    scaled_BLHA = materialized((grad_BLHA / sum_BLH1).astype(value_BKSA.dtype))
    grad_BHLA, scaled_BHLA = (jnp.swapaxes(x, 1, 2) for x in (grad_BLHA, scaled_BLHA))
    rounded_BHLS = weights_BHLS.astype(value_BKSA.dtype)
    value_grad = grouped.mix_transpose(rounded_BHLS, scaled_BHLA, value_BKSA.shape[1])
    centred_BHLS = grouped.scores(grad_BHLA, value_BKSA) - delta_BHL[..., None]
    return weights_BHLS * centred_BHLS / sum_BHL[..., None], value_grad
