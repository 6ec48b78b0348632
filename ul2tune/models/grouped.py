"""The two products of attention, where several query heads may share one key/value head.

Grouped-query attention (Ainslie et al. 2023, arXiv:2305.13245): query head h reads key/value head
h // (H / K). Keys are never repeated in memory; with H = K this is multi-head attention. Heads come
before positions in all arrays here, the order in which the products are computed.

Axes: B batch, L query length, S key length, H query heads, K key/value heads, G = H / K heads of a
group, A head size, X keys or head size.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp


@jax.custom_vjp
def scores(query_BHLA: jax.Array, key_BKSA: jax.Array) -> jax.Array:
    """Returns ``q k^T`` per query head, float32 [B, H, L, S].

    NUMERICS: its gradient is rounded to the operands' dtype before its two products, as
    FlashAttention does; JAX would widen the operands to the gradient's float32 instead.
    """
    return _scores(query_BHLA, key_BKSA)


def _scores(query_BHLA: jax.Array, key_BKSA: jax.Array) -> jax.Array:
    (batch, heads, length, _), keys = query_BHLA.shape, key_BKSA.shape[2]
    scores_BKGLS = jnp.einsum(
        "BKGLA,BKSA->BKGLS",
        _groups(query_BHLA, key_BKSA.shape[1]),
        key_BKSA,
        preferred_element_type=jnp.float32,
    )
    return scores_BKGLS.reshape(batch, heads, length, keys)


def _scores_forward(query_BHLA: jax.Array, key_BKSA: jax.Array) -> tuple[jax.Array, Any]:
    # Not `scores` itself: a remat policy has to see the product.
    return _scores(query_BHLA, key_BKSA), (query_BHLA, key_BKSA)


def _scores_backward(residuals: Any, grad_BHLS: jax.Array) -> tuple[jax.Array, jax.Array]:
    query_BHLA, key_BKSA = residuals
    grad_BHLS = grad_BHLS.astype(query_BHLA.dtype)
    return mix(grad_BHLS, key_BKSA), mix_transpose(grad_BHLS, query_BHLA, key_BKSA.shape[1])


scores.defvjp(_scores_forward, _scores_backward)


def mix(
    weights_BHLS: jax.Array, value_BKSA: jax.Array, dtype: jax.typing.DTypeLike | None = None
) -> jax.Array:
    """Returns ``weights v`` per query head, [B, H, L, A], accumulated in `dtype`."""
    weights_BKGLS = _groups(weights_BHLS, value_BKSA.shape[1])
    mixed_BKGLA = jnp.einsum(
        "BKGLS,BKSA->BKGLA", weights_BKGLS, value_BKSA, preferred_element_type=dtype
    )
    return mixed_BKGLA.reshape(*weights_BHLS.shape[:3], -1)


def mix_transpose(weights_BHLS: jax.Array, x_BHLA: jax.Array, kv_heads: int) -> jax.Array:
    """Returns ``weights^T x``, summed over each group, [B, K, S, A]: :func:`mix` transposed in its
    values."""
    x_BKGLA, weights_BKGLS = _groups(x_BHLA, kv_heads), _groups(weights_BHLS, kv_heads)
    # In this order what XLA for CPU copies to transpose it is `x`, not the larger weights.
    mixed_BKAS = jnp.einsum("BKGLA,BKGLS->BKAS", x_BKGLA, weights_BKGLS)
    return jnp.swapaxes(mixed_BKAS, -1, -2)


def _groups(x_BHLX: jax.Array, kv_heads: int) -> jax.Array:
    """[B, H, L, X] -> [B, K, G, L, X]"""
    batch, heads, *rest = x_BHLX.shape
    return x_BHLX.reshape(batch, kv_heads, heads // kv_heads, *rest)
