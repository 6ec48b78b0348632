"""Attention, however it is computed, and T5's multi-head attention: no scaling, a bias by distance,
no bias terms. `grouped_attention` has that of the decoder-only families.

Axes: B batch, L query length, S key length, D model, H heads, K key/value heads, A head size,
W = L + S - 1 distances, G groups of rows.
"""

from __future__ import annotations

import functools
import logging
import os
import re
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from ul2tune import sharding
from ul2tune.models import chunked_attention, grouped, relative_bias
from ul2tune.models.layers import Dropout, cap, drop, keep_mask, normal, param
from ul2tune.models.linear import heads_first, linear, materialized, swap
from ul2tune.models.softmax import softmax_mix
from ul2tune.models.visibility import Visibility
from ul2tune.sharding import constrain

log = logging.getLogger(__name__)
# With either of these flags XLA compiles cuDNN's attention and then fails to look it up
# ("IndexError: raw_hash_map::at", JAX 0.11.2 on an H200).
_REPRODUCIBLE = re.compile(
    r"--xla_gpu_(?:exclude_nondeterministic|deterministic)_ops(?:=(?:true|1))?(?!\S)"
)
IMPLEMENTATIONS = ("auto", "xla", "chunked", "cudnn")


@dataclass(frozen=True, kw_only=True)
class Implementation:
    """How attention is computed; the result does not depend on it.

    Attributes:
      name: "xla" builds all logits [B, H, L, S]; "chunked" never more than `chunk_tokens` keys of
        them; "cudnn" is NVIDIA's fused kernel; "auto" is that where it is supported, else "xla".
      chunk_tokens: keys per step of "chunked".
    """

    name: str
    chunk_tokens: int

    @classmethod
    def of(cls, config: Any) -> Implementation:
        """What the configuration of a model asks for."""
        return cls(name=config.attention, chunk_tokens=config.attention_chunk_tokens)


def attend(
    query_BLHA: jax.Array,
    key_BSKA: jax.Array,
    value_BSKA: jax.Array,
    bias: jax.Array | None,
    visibility: Visibility,
    implementation: Implementation,
    *,
    softcap: float | None = None,
) -> jax.Array:
    """Returns ``softmax(q k^T + bias) v`` as [B, L, H, A].

    Args:
      query_BLHA: queries; any scaling is in them.
      key_BSKA: keys; K divides H, see `grouped`.
      value_BSKA: values, already multiplied by the dropout of attention weights, see
        :class:`MultiHeadAttention`.
      bias: by distance [H, W], see `relative_bias.by_distance`, or the result of :func:`spread`.
      visibility: who sees whom.
      implementation: how to compute it.
      softcap: bounds the products: ``cap * tanh(q k^T / cap)`` (Gemma 2).

    Raises:
      ValueError: if "cudnn" does not support these inputs on this machine.
    """
    if implementation.name == "chunked":
        how = chunked_attention.How(chunk_tokens=implementation.chunk_tokens, softcap=softcap)
        return chunked_attention.attend(query_BLHA, key_BSKA, value_BSKA, bias, visibility, how)
    bias_GHLS = None if bias is None else spread(bias, query_BLHA.shape[:2], implementation)
    problem = None if implementation.name == "xla" else _cudnn_lacks(query_BLHA, key_BSKA, softcap)
    if implementation.name == "cudnn" and problem:
        raise ValueError(f"attention = 'cudnn' {problem}; use 'xla' or 'chunked'.")
    if implementation.name != "xla" and not problem:
        return _cudnn(query_BLHA, key_BSKA, value_BSKA, bias_GHLS, visibility)
    if problem and _machine_lacks() is None:
        _tell(problem)
    mask_BLS = visibility.mask()
    query_BHLA, key_BKSA, value_BKSA = map(heads_first, (query_BLHA, key_BSKA, value_BSKA))
    return xla(query_BHLA, key_BKSA, value_BKSA, bias_GHLS, mask_BLS, softcap)


@functools.cache
def _tell(problem: str) -> None:
    """Warns once per problem: the user may be able to fix it, and "xla" takes twice the time."""
    log.warning("attention = 'auto' is 'xla' in part of this program: cuDNN's %s.", problem)


def spread(bias: jax.Array, queries: tuple[int, ...], implementation: Implementation) -> jax.Array:
    """Returns the bias as the implementation reads it: [G, H, L, S] for groups of rows, or still by
    distance for "chunked".

    :func:`attend` would do this by itself. Layers that share one bias call it once, before the
    first of them, so that this work and that of its gradient are not repeated per layer. A bias
    that is spread already is returned as it is. `queries` are the sizes (B, L).
    """
    if implementation.name == "chunked" or bias.ndim == 4:
        return bias
    batch_size, length = queries
    # cuDNN's kernel takes one bias for all rows.
    may_be_cudnn = implementation.name != "xla" and _machine_lacks() is None
    groups = 1 if may_be_cudnn else sharding.batch_groups(batch_size)
    return materialized(relative_bias.toeplitz_per_group(bias, length, groups))


def xla(
    query_BHLA: jax.Array,
    key_BKSA: jax.Array,
    value_BKSA: jax.Array,
    bias_GHLS: jax.Array | None,
    mask_BLS: jax.Array,
    softcap: float | None = None,
) -> jax.Array:
    """Attention with an explicit bias and mask, [B, L, H, A].

    Heads come before positions, as the products read them and caches keep them.
    """
    logits_BHLS = cap(grouped.scores(query_BHLA, key_BKSA), softcap)
    if bias_GHLS is not None:
        logits_BHLS = relative_bias.add_to_rows(logits_BHLS, bias_GHLS)
    return softmax_mix(logits_BHLS, mask_BLS, value_BKSA)


def _machine_lacks() -> str | None:
    """Why cuDNN's kernel cannot run here whatever the inputs, or None if it can."""
    if jax.default_backend() != "gpu":
        return f"needs an NVIDIA GPU, and this is {jax.default_backend()!r}"
    capability = _capability()
    if not capability[0].isdigit() or float(capability) < 8:
        return f"needs an NVIDIA GPU of compute capability 8.0 or more, and this is {capability}"
    flags = _REPRODUCIBLE.findall(os.environ.get("XLA_FLAGS", ""))
    return f"does not run with {' '.join(flags)} in XLA_FLAGS" if flags else None


def _capability() -> str:
    """Of this process's GPUs; AMD's are named "gfx942"."""
    return str(getattr(jax.local_devices()[0], "compute_capability", "unknown"))


def _cudnn_lacks(query_BLHA, key_BSKA, softcap: float | None) -> str | None:
    """Why cuDNN's kernel cannot compute this here, or None if it can."""
    if (lacks := _machine_lacks()) is not None:
        return lacks
    dtype, (length, size) = query_BLHA.dtype, (query_BLHA.shape[1], query_BLHA.shape[3])
    largest = 256 if float(_capability()) >= 9 else 128
    keys, kv_heads = key_BSKA.shape[1:3]
    tensor = jax.sharding.get_abstract_mesh().shape.get("tensor", 1)
    problems = [
        (dtype != jnp.bfloat16, f"needs dtype bfloat16, not {dtype}"),
        (
            size % 8 != 0 or size > largest,
            f"needs a head size that is a multiple of 8 up to {largest} here, not {size}",
        ),
        ((length | keys) % 2 != 0, f"needs even lengths, not {length} and {keys}"),
        (softcap is not None, f"cannot cap its logits (softcap {softcap})"),
        # Otherwise every device would have all of them but only its share of the query heads
        # (sharding.MAY_STAY_WHOLE), which the kernel does not support.
        (
            kv_heads % tensor != 0,
            f"needs key/value heads that divide by the mesh's tensor axis, not {kv_heads} by "
            f"{tensor}",
        ),
    ]
    return next((text for found, text in problems if found), None)


def _cudnn(query_BLHA, key_BSKA, value_BSKA, bias_BHLS, visibility: Visibility) -> jax.Array:
    dtype = query_BLHA.dtype
    # NUMERICS: the bias is rounded to bfloat16; cuDNN's float32 bias has given NaN gradients.
    if bias_BHLS is not None:
        # The kernel wants it split as the queries are.
        bias_BHLS = constrain(bias_BHLS.astype(dtype), None, "heads", None, None)
    options: dict = {"bias": bias_BHLS}
    beyond_segments = (visibility.prefix_BL, visibility.window, visibility.own_keys)
    if visibility.packed or any(value is not None for value in beyond_segments):
        # Folded into the bias, [B, H, L, S] in memory; still half of what "xla" takes.
        mask_BLS = visibility.mask()
        seeing_BL1 = jnp.any(mask_BLS, axis=-1, keepdims=True)
        # NUMERICS: for a query that sees no key the kernel returns NaN, and makes every gradient
        # NaN. Such a query is shown all keys here, and its result is set to 0 below.
        options["mask"] = (mask_BLS | ~seeing_BL1)[:, None]
    else:
        # At least one token per row: in a row of padding the softmax over no keys would be NaN.
        options["query_seq_lengths"] = _lengths(visibility.query_BL)
        options["key_value_seq_lengths"] = _lengths(visibility.key_BS)
        options["is_causal"] = visibility.causal
        seeing_BL1 = jnp.any(visibility.key_BS != 0, axis=-1)[:, None, None]
    out_BLHA = jax.nn.dot_product_attention(
        query_BLHA, key_BSKA, value_BSKA, scale=1.0, implementation="cudnn", **options
    )
    return jnp.where(seeing_BL1[..., None], out_BLHA, 0)


def _lengths(segments_BL: jax.Array) -> jax.Array:
    return jnp.maximum(jnp.sum(segments_BL != 0, axis=1, dtype=jnp.int32), 1)


class MultiHeadAttention(nnx.Module):
    """Queries from one sequence, keys and values from another or the same.

    Initial scales are Mesh-TF's: logits are not divided by sqrt(d_kv); the query kernel starts
    smaller by that factor instead.
    """

    def __init__(self, d_model: int, num_heads: int, d_kv: int, key: jax.Array):
        keys = jax.random.split(key, 4)
        axes = {"embed": d_model, "heads": num_heads, "kv": d_kv}
        self.query = param(normal((d_model * d_kv) ** -0.5), keys[0], **axes)
        self.key = param(normal(d_model**-0.5), keys[1], **axes)
        self.value = param(normal(d_model**-0.5), keys[2], **axes)
        std = (num_heads * d_kv) ** -0.5
        self.out = param(normal(std), keys[3], heads=num_heads, kv=d_kv, embed=d_model)

    def heads(self, x_BLD: jax.Array, kernel_DHA: nnx.Param) -> jax.Array:
        """Projects with one of the three kernels, to [B, L, H, A]."""
        y_BLHA = linear(x_BLD, kernel_DHA[...], 1)
        return constrain(y_BLHA, "batch", "length", "heads", "kv")

    def merge(self, x_BLHA: jax.Array) -> jax.Array:
        """Projects the heads' results back to [B, L, D]."""
        return linear(x_BLHA, self.out[...], 2)

    def attend_cached(
        self,
        x_BLD: jax.Array,
        key_BKSA: jax.Array,
        value_BKSA: jax.Array,
        bias_GH1S: jax.Array | None,
        mask_B1S: jax.Array,
    ) -> jax.Array:
        """Attention to cached keys and values, [B, L, D]; all positions have the same mask."""
        query_BHLA = swap(self.heads(x_BLD, self.query))
        return self.merge(xla(query_BHLA, key_BKSA, value_BKSA, bias_GH1S, mask_B1S))

    def __call__(
        self,
        x_BLD: jax.Array,
        source_BSD: jax.Array,
        bias: jax.Array | None,
        visibility: Visibility,
        implementation: Implementation,
        dropout: Dropout = (0.0, None),
    ) -> jax.Array:
        """Returns what every position of `x_BLD` reads from `source_BSD`, [B, L, D].

        `bias` is as in :func:`attend`. T5X drops attention weights with one mask [B, H, 1, S] for
        all queries. Multiplying the values by the mask has the same result, and works with every
        implementation.
        """
        value_BSHA = self.heads(source_BSD, self.value)
        mask_BSH = keep_mask(dropout, value_BSHA.shape[:3])
        out_BLHA = attend(
            self.heads(x_BLD, self.query),
            self.heads(source_BSD, self.key),
            value_BSHA if mask_BSH is None else drop(value_BSHA, mask_BSH[..., None]),
            bias,
            visibility,
            implementation,
        )
        return self.merge(out_BLHA)
