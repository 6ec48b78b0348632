"""The norms of the decoder-only families, one module for all.

Axes: B batch, L length, D model; attention's query and key norms act on [B, L, H, A].
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.nn.initializers import ones, zeros

from ul2tune.models.layers import param, rms_norm

# "rms": ``scale x / rms(x)`` (T5, Llama, Qwen). "rms_offset": ``(1 + scale) x / rms(x)`` (Gemma),
# so that decay pulls towards the identity. "layer": mean and variance, scale and bias (OPT).
NORMS = ("rms", "rms_offset", "layer")
# Where a block has its norms, see `decoder_block.Block.add`.
NORM_ORDERS = ("pre", "post", "sandwich")


class Norm(nnx.Module):
    """Normalises the last axis.

    Args:
      kind: one of :data:`NORMS`.
      eps: added to the mean square, or to the variance.
      key: of the initialiser.
      axes: the axis by name and size: ``embed=512``, ``kv=64``.
    """

    def __init__(self, kind: str, eps: float, key: jax.Array, **axes: int):
        self.kind, self.eps = kind, eps
        self.scale = param(zeros if kind == "rms_offset" else ones, key, **axes)
        if kind == "layer":
            self.bias = param(zeros, key, **axes)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Returns the normalised array in the dtype of `x`.

        NUMERICS: in float32, scale included. DIVERGES: Transformers' Llama and Qwen round before
        they multiply by the scale; the same in float32.
        """
        if self.kind != "layer":
            offset = 1.0 if self.kind == "rms_offset" else 0.0
            return rms_norm(x, self.scale[...] + offset, self.eps)
        wide = x.astype(jnp.float32)
        centred = wide - jnp.mean(wide, axis=-1, keepdims=True)
        variance = jnp.mean(jnp.square(centred), axis=-1, keepdims=True)
        scale, bias = (_along_last(p[...], x) for p in (self.scale, self.bias))
        return (centred * jax.lax.rsqrt(variance + self.eps) * scale + bias).astype(x.dtype)


def _along_last(vector: Any, like: jax.Array) -> jax.Array:
    """The vector with as many axes as `like`, to be broadcast along the last one."""
    return jnp.expand_dims(vector, range(like.ndim - 1))
