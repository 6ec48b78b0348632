"""Attention in memory linear in length: online softmax over chunks of keys, recomputed backwards.

The forward pass keeps a running maximum, normaliser and output per query (Milakov & Gimelshein
2018, arXiv:1805.02867; Rabe & Staats 2021, arXiv:2112.05682); the backward pass needs only the
output and the log-normaliser (FlashAttention, arXiv:2205.14135, algorithm 4). Plain JAX, any
backend.

Axes: B batch, L query length, S key length, C keys of a chunk, H heads, K key/value heads, A head
size, W = L + S - 1.
"""

from __future__ import annotations

import dataclasses
import functools
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from ul2tune.models import grouped, relative_bias, softmax
from ul2tune.models.folding import ATTENTION
from ul2tune.models.layers import cap
from ul2tune.models.linear import heads_first
from ul2tune.models.visibility import MASKED, Visibility

# Segment id of the keys that fill up the last chunk.
BEYOND = -1


@dataclass(frozen=True, kw_only=True)
class How:
    """What is static: keys per chunk, and the bound of the products (None = unbounded)."""

    chunk_tokens: int
    softcap: float | None = None


def attend(
    query_BLHA: jax.Array,
    key_BSKA: jax.Array,
    value_BSKA: jax.Array,
    bias_HW: jax.Array | None,
    visibility: Visibility,
    how: How,
) -> jax.Array:
    """Returns ``softmax(q k^T + bias) v`` [B, L, H, A]; see `attention.attend`."""
    query_BHLA, key_BKSA, value_BKSA = map(heads_first, (query_BLHA, key_BSKA, value_BSKA))
    length = key_BKSA.shape[2]
    how = dataclasses.replace(how, chunk_tokens=min(how.chunk_tokens, length))
    extra = -length % how.chunk_tokens
    key_BKSA, value_BKSA = (
        jnp.pad(x, ((0, 0), (0, 0), (0, extra), (0, 0))) for x in (key_BKSA, value_BKSA)
    )
    if bias_HW is not None:
        bias_HW = jnp.pad(bias_HW, ((0, 0), (0, extra)))
    segments_BS = jnp.pad(visibility.key_BS, ((0, 0), (0, extra)), constant_values=BEYOND)
    visibility = dataclasses.replace(visibility, key_BS=segments_BS)
    return _attend(query_BHLA, key_BKSA, value_BKSA, bias_HW, visibility, how)


def _logits(
    query_BHLA, key_BKCA, bias_HW, visibility: Visibility, how: How, first_key: Any
) -> jax.Array:
    """Masked float32 logits [B, H, L, C] of the keys that start at `first_key`."""
    length, chunk_tokens = query_BHLA.shape[2], key_BKCA.shape[2]
    logits_BHLC = cap(grouped.scores(query_BHLA, key_BKCA), how.softcap)
    if bias_HW is not None:
        width = length + chunk_tokens - 1
        chunk_HW = jax.lax.dynamic_slice_in_dim(bias_HW, first_key, width, axis=1)
        logits_BHLC += relative_bias.toeplitz(chunk_HW, length)[None]
    mask_BLC = visibility.mask(first_key, chunk_tokens)
    logits_BHLC = jnp.where(mask_BLC[:, None], logits_BHLC, MASKED)
    keys_BC = jax.lax.dynamic_slice_in_dim(visibility.key_BS, first_key, chunk_tokens, axis=1)
    return jnp.where((keys_BC == BEYOND)[:, None, None], -jnp.inf, logits_BHLC)


def _chunks(x_BKSA: jax.Array, chunk_tokens: int) -> jax.Array:
    """[B, K, S, A] -> [S / C, B, K, C, A]"""
    batch, kv_heads, _, size = x_BKSA.shape
    return jnp.moveaxis(x_BKSA.reshape(batch, kv_heads, -1, chunk_tokens, size), 2, 0)


def _scan(step: Any, carry: Any, chunk_tokens: int, *arrays_BKSA: jax.Array) -> Any:
    """Scans ``step(carry, first_key, *chunks)`` over the keys."""
    starts = jnp.arange(0, arrays_BKSA[0].shape[2], chunk_tokens)
    xs = (starts, *(_chunks(x, chunk_tokens) for x in arrays_BKSA))
    return jax.lax.scan(lambda carry, x: step(carry, *x), carry, xs)


@functools.partial(jax.custom_vjp, nondiff_argnums=(5,))
def _attend(query_BHLA, key_BKSA, value_BKSA, bias_HW, visibility, how):
    return _forward(query_BHLA, key_BKSA, value_BKSA, bias_HW, visibility, how)[0]


def _forward(query_BHLA, key_BKSA, value_BKSA, bias_HW, visibility, how):
    batch, heads, length, size = query_BHLA.shape

    def step(carry, first_key, key_BKCA, value_BKCA):
        max_BHL, sum_BHL, out_BHLA = carry
        logits_BHLC = _logits(query_BHLA, key_BKCA, bias_HW, visibility, how, first_key)
        new_max_BHL = jnp.maximum(max_BHL, jnp.max(logits_BHLC, axis=-1))
        shrink_BHL = jnp.exp(max_BHL - new_max_BHL)
        weights_BHLC = jnp.exp(logits_BHLC - new_max_BHL[..., None])
        rounded_BHLC = weights_BHLC.astype(value_BKCA.dtype)
        update_BHLA = grouped.mix(rounded_BHLC, value_BKCA, jnp.float32)
        sum_BHL = sum_BHL * shrink_BHL + jnp.sum(weights_BHLC, axis=-1)
        return (new_max_BHL, sum_BHL, out_BHLA * shrink_BHL[..., None] + update_BHLA), None

    zeros_BHL = jnp.zeros((batch, heads, length), jnp.float32)
    start = (zeros_BHL - jnp.inf, zeros_BHL, jnp.zeros((batch, heads, length, size), jnp.float32))
    carry, _ = _scan(step, start, how.chunk_tokens, key_BKSA, value_BKSA)
    max_BHL, sum_BHL, out_BHLA = carry
    sum_BHL = softmax.divisor(max_BHL != MASKED, sum_BHL)
    out_BHLA = out_BHLA / sum_BHL[..., None]
    out_BLHA = jnp.swapaxes(out_BHLA, 1, 2).astype(value_BKSA.dtype)
    # Maximum and sum are kept apart, not as one log-normaliser: for a query that sees no key the
    # maximum is MASKED, so large that adding the logarithm of the sum would change nothing.
    kept = [checkpoint_name(x, ATTENTION) for x in (out_BLHA, max_BHL, sum_BHL)]
    return kept[0], (query_BHLA, key_BKSA, value_BKSA, bias_HW, visibility, *kept)


def _backward(how, residuals, grad_BLHA):
    query_BHLA, key_BKSA, value_BKSA, bias_HW, visibility, out_BLHA, max_BHL, sum_BHL = residuals
    delta_BHL = softmax.delta(out_BLHA, grad_BLHA)

    def step(carry, first_key, key_BKCA, value_BKCA):
        logits_BHLC, pull_back = jax.vjp(
            lambda q, k, b: _logits(q, k, b, visibility, how, first_key),
            query_BHLA,
            key_BKCA,
            bias_HW,
        )
        weights_BHLC = jnp.exp(logits_BHLC - max_BHL[..., None])
        logits_grad, value_grad = softmax.gradients(
            weights_BHLC, sum_BHL, delta_BHL, grad_BLHA, value_BKCA
        )
        query_grad, key_grad, bias_grad = pull_back(logits_grad)
        # NUMERICS: partial sums over chunks stay in float32 whatever the compute dtype.
        carry = jax.tree.map(
            lambda total, part: total + part.astype(jnp.float32), carry, (query_grad, bias_grad)
        )
        return carry, (key_grad, value_grad)

    carry = jax.tree.map(lambda x: jnp.zeros(x.shape, jnp.float32), (query_BHLA, bias_HW))
    carry, grads = _scan(step, carry, how.chunk_tokens, key_BKSA, value_BKSA)
    query_grad, bias_grad = carry
    key_grad, value_grad = (jnp.moveaxis(x, 0, 2).reshape(key_BKSA.shape) for x in grads)
    return query_grad.astype(query_BHLA.dtype), key_grad, value_grad, bias_grad, None


_attend.defvjp(_forward, _backward)
