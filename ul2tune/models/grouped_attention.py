"""Attention with everything the decoder-only families add to T5's: shared key/value heads, biases,
norms of queries and keys, rotated positions, a scale, a bound on the logits. A bias by distance is
that of T5.

Axes: B batch, L query length, S key length, D model, H query heads, K key/value heads, A head size.
"""

from __future__ import annotations

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from flax import nnx
from jax.nn.initializers import zeros

from ul2tune.models import attention
from ul2tune.models.attention import Implementation
from ul2tune.models.layers import Dropout, drop, keep_mask, normal, param
from ul2tune.models.linear import linear, swap
from ul2tune.models.norms import Norm
from ul2tune.models.rotary import Rotation
from ul2tune.models.visibility import Visibility
from ul2tune.sharding import constrain


@dataclass(frozen=True, kw_only=True)
class AttentionConfig:
    """One attention block.

    Attributes:
      d_model: width of the residual stream.
      num_heads: query heads.
      num_kv_heads: key/value heads; divides `num_heads`.
      head_dim: size of a head.
      scale: what queries are multiplied by.
      bias: whether queries, keys and values have biases.
      out_bias: whether the output has one.
      norm: kind of the norms of queries and keys (`norms.NORMS`); None = not normed.
      norm_eps: of those norms.
      softcap: bound of the logits; None = unbounded.
      source_d_model: width of what keys and values are made of; None = `d_model`.
      query_init: factor of the query's initial scale.
    """

    d_model: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    scale: float
    bias: bool = False
    out_bias: bool = False
    norm: str | None = None
    norm_eps: float = 1e-6
    softcap: float | None = None
    source_d_model: int | None = None
    query_init: float = 1.0


class GroupedQueryAttention(nnx.Module):
    """Queries from one sequence, keys and values from another or the same.

    Parameters: `query` [D, H, A], `key` and `value` [D, K, A], `out` [H, A, D]; where there are
    biases `query_bias` [H, A], `key_bias` and `value_bias` [K, A], `out_bias` [D]; where queries
    and keys are normed `query_norm` and `key_norm` [A].
    """

    def __init__(self, config: AttentionConfig, key: jax.Array):
        self.config, d = config, config.d_model
        keys, source = jax.random.split(key, 4), config.source_d_model or d
        queries = {"heads": config.num_heads, "kv": config.head_dim}
        shared = {"kv_heads": config.num_kv_heads, "kv": config.head_dim}
        # Inputs of unit variance give scaled logits and outputs of unit variance. Where the scale
        # is 1 (T5), `query_init` makes up for it.
        self.query = param(normal(d**-0.5 * config.query_init), keys[0], embed=d, **queries)
        self.key = param(normal(source**-0.5), keys[1], embed=source, **shared)
        self.value = param(normal(source**-0.5), keys[2], embed=source, **shared)
        out_std = (config.num_heads * config.head_dim) ** -0.5
        self.out = param(normal(out_std), keys[3], **queries, embed=d)
        if config.bias:
            self.query_bias = param(zeros, key, **queries)
            self.key_bias = param(zeros, key, **shared)
            self.value_bias = param(zeros, key, **shared)
        if config.out_bias:
            self.out_bias = param(zeros, key, embed=d)
        if config.norm is not None:
            self.query_norm = Norm(config.norm, config.norm_eps, key, kv=config.head_dim)
            self.key_norm = Norm(config.norm, config.norm_eps, key, kv=config.head_dim)

    def queries(self, x_BLD: jax.Array, rotation: Rotation | None) -> jax.Array:
        """Returns queries [B, L, H, A]: projected, normed, rotated, scaled."""
        bias = self.query_bias[...] if self.config.bias else None
        y_BLHA = linear(x_BLD, self.query[...], 1, bias)
        if self.config.norm is not None:
            y_BLHA = self.query_norm(y_BLHA)
        if rotation is not None:
            y_BLHA = rotation(y_BLHA)
        # NUMERICS: the product in float32, then rounded; powers of two lose nothing.
        y_BLHA = (y_BLHA.astype(jnp.float32) * self.config.scale).astype(y_BLHA.dtype)
        return constrain(y_BLHA, "batch", "length", "heads", "kv")

    def keys(self, x_BSD: jax.Array, rotation: Rotation | None) -> jax.Array:
        """Returns keys [B, S, K, A]: projected, normed, rotated."""
        y_BSKA = linear(x_BSD, self.key[...], 1, self.key_bias[...] if self.config.bias else None)
        if self.config.norm is not None:
            y_BSKA = self.key_norm(y_BSKA)
        if rotation is not None:
            y_BSKA = rotation(y_BSKA)
        return constrain(y_BSKA, "batch", "length", "kv_heads", "kv")

    def values(self, x_BSD: jax.Array, dropout: Dropout = (0.0, None)) -> jax.Array:
        """Returns values [B, S, K, A].

        Dropout of attention weights is in them, one mask [B, H, 1, S] for all queries as in
        `attention.MultiHeadAttention`; here for all heads of a group too.
        """
        bias = self.value_bias[...] if self.config.bias else None
        y_BSKA = constrain(
            linear(x_BSD, self.value[...], 1, bias), "batch", "length", "kv_heads", "kv"
        )
        mask_BSK = keep_mask(dropout, y_BSKA.shape[:3])
        return y_BSKA if mask_BSK is None else drop(y_BSKA, mask_BSK[..., None])

    def merge(self, x_BLHA: jax.Array) -> jax.Array:
        """Projects the heads' results back to [B, L, D]."""
        return linear(
            x_BLHA, self.out[...], 2, self.out_bias[...] if self.config.out_bias else None
        )

    def attend(
        self,
        query_BLHA: jax.Array,
        key_BSKA: jax.Array,
        value_BSKA: jax.Array,
        visibility: Visibility,
        implementation: Implementation,
        bias: jax.Array | None = None,
    ) -> jax.Array:
        """Returns what queries read, merged, [B, L, D]. `bias` is as in `attention.attend`."""
        inputs = (query_BLHA, key_BSKA, value_BSKA, bias, visibility, implementation)
        return self.merge(attention.attend(*inputs, softcap=self.config.softcap))

    def attend_cached(
        self,
        query_BLHA: jax.Array,
        key_BKSA: jax.Array,
        value_BKSA: jax.Array,
        mask_BLS: jax.Array,
        bias_BHLS: jax.Array | None = None,
    ) -> jax.Array:
        """:meth:`attend` with keys and values of a cache, and an explicit mask and bias."""
        inputs = (swap(query_BLHA), key_BKSA, value_BKSA, bias_BHLS, mask_BLS)
        return self.merge(attention.xla(*inputs, self.config.softcap))

    def __call__(
        self,
        x_BLD: jax.Array,
        rotation: Rotation | None,
        visibility: Visibility,
        implementation: Implementation,
        dropout: Dropout = (0.0, None),
        bias: jax.Array | None = None,
    ) -> jax.Array:
        """Self-attention: returns what every position of `x_BLD` reads from the others."""
        return self.attend(
            self.queries(x_BLD, rotation),
            self.keys(x_BLD, rotation),
            self.values(x_BLD, dropout),
            visibility,
            implementation,
            bias,
        )
