"""The two products of attention, where several query heads may share one key/value head.

Grouped-query attention (Ainslie et al. 2023, arXiv:2305.13245): query head h reads key/value head
h // (H / K). Keys are never repeated in memory; with H = K this is multi-head attention.

Axes: B batch, L query length, S key length, H query heads, K key/value heads, G = H / K heads of a
group, A head size.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp


@jax.custom_vjp
def scores(query_BLHA: jax.Array, key_BSKA: jax.Array) -> jax.Array:
    """Returns ``q k^T`` per query head, float32 [B, H, L, S].

    NUMERICS: its gradient is rounded to the operands' dtype before its two products, as
    FlashAttention does; JAX would widen the operands to the gradient's float32 instead.
    """
    return _scores(query_BLHA, key_BSKA)


def _scores(query_BLHA: jax.Array, key_BSKA: jax.Array) -> jax.Array:
    (batch, length, heads, size), kv_heads = query_BLHA.shape, key_BSKA.shape[2]
    # Groups before positions: the product then comes out in the order of the result.
    query_BKGLA = jnp.moveaxis(query_BLHA, 1, 2).reshape(batch, kv_heads, -1, length, size)
    scores_BKGLS = jnp.einsum(
        "BKGLA,BSKA->BKGLS", query_BKGLA, key_BSKA, preferred_element_type=jnp.float32
    )
    return scores_BKGLS.reshape(batch, heads, length, -1)


def _scores_forward(query_BLHA: jax.Array, key_BSKA: jax.Array) -> tuple[jax.Array, Any]:
    # Not `scores` itself: a remat policy has to see the product.
    return _scores(query_BLHA, key_BSKA), (query_BLHA, key_BSKA)


def _scores_backward(residuals: Any, grad_BHLS: jax.Array) -> tuple[jax.Array, jax.Array]:
    query_BLHA, key_BSKA = residuals
    grad_BHLS = grad_BHLS.astype(query_BLHA.dtype)
    query_grad = jnp.moveaxis(mix(grad_BHLS, key_BSKA), 1, 2)
    return query_grad, gather(grad_BHLS, query_BLHA, key_BSKA.shape[2])


scores.defvjp(_scores_forward, _scores_backward)


def mix(
    weights_BHLS: jax.Array, value_BSKA: jax.Array, dtype: jax.typing.DTypeLike | None = None
) -> jax.Array:
    """Returns ``weights v`` per query head, [B, H, L, A], accumulated in `dtype`."""
    (batch, heads, length, _), kv_heads = weights_BHLS.shape, value_BSKA.shape[2]
    weights_BKGLS = weights_BHLS.reshape(batch, kv_heads, -1, length, weights_BHLS.shape[3])
    mixed_BKGLA = jnp.einsum(
        "BKGLS,BSKA->BKGLA", weights_BKGLS, value_BSKA, preferred_element_type=dtype
    )
    return mixed_BKGLA.reshape(batch, heads, length, -1)


def gather(weights_BHLS: jax.Array, x_BLHA: jax.Array, kv_heads: int) -> jax.Array:
    """Returns ``weights^T x``, summed over each group, [B, S, K, A]: the transpose of :func:`mix`
    in its values."""
    (batch, _, length, keys), size = weights_BHLS.shape, x_BLHA.shape[3]
    weights_BKGLS = weights_BHLS.reshape(batch, kv_heads, -1, length, keys)
    x_BKGLA = jnp.moveaxis(x_BLHA, 1, 2).reshape(batch, kv_heads, -1, length, size)
    return jnp.einsum("BKGLS,BKGLA->BSKA", weights_BKGLS, x_BKGLA)


def cap(logits: jax.Array, softcap: float | None) -> jax.Array:
    """Returns ``cap * tanh(logits / cap)``; None caps nothing."""
    return logits if softcap is None else softcap * jnp.tanh(logits / softcap)
