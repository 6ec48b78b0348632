"""What every block of a T5 is made of: parameters with logical axes, RMS norm, dropout, the feed-forward block.

Axes: B batch, L length, D model, F mlp, N layers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from ul2tune.sharding import constrain

# activation name -> (function, whether it multiplies a second linear projection). GELU is the tanh approximation, as in
# Mesh-TF, T5X and HF's "gelu_new".
ACTIVATIONS: dict[str, tuple[Callable[[jax.Array], jax.Array], bool]] = {
    "relu": (jax.nn.relu, False),
    "gelu": (jax.nn.gelu, False),
    "relu_gated": (jax.nn.relu, True),
    "gelu_gated": (jax.nn.gelu, True),
    "silu_gated": (jax.nn.silu, True),
}


def normal(std: float) -> Callable[..., jax.Array]:
    """Normal initialiser with the given standard deviation."""
    return lambda key, shape: std * jax.random.normal(key, shape, jnp.float32)


def truncated_normal(std: float) -> Callable[..., jax.Array]:
    """Normal initialiser cut at two standard deviations and rescaled to the given one (Flax's `truncated_normal`)."""
    # The standard deviation of a unit normal truncated to [-2, 2].
    scale = std / 0.87962566103423978
    return lambda key, shape: scale * jax.random.truncated_normal(key, -2, 2, shape, jnp.float32)


def uniform(limit: float) -> Callable[..., jax.Array]:
    """Uniform initialiser on [-limit, limit)."""
    return lambda key, shape: jax.random.uniform(key, shape, jnp.float32, -limit, limit)


def ones(key: jax.Array, shape: Sequence[int]) -> jax.Array:
    """Initialiser of norm scales."""
    del key
    return jnp.ones(shape, jnp.float32)


def param(init: Callable[..., jax.Array], key: jax.Array, **axes: int) -> nnx.Param:
    """A float32 parameter whose dimensions are its keyword arguments: ``param(init, key, embed=512, mlp=2048)``."""
    return nnx.Param(init(key, tuple(axes.values())), axes=tuple(axes))


def stack(make: Callable[[jax.Array], Any], num_layers: int, key: jax.Array) -> Any:
    """Returns one module holding `num_layers` independent layers, every parameter with a leading `layers` axis."""
    layers = jax.vmap(make)(jax.random.split(key, num_layers))
    for _, variable in nnx.iter_graph(layers):
        if isinstance(variable, nnx.Param):
            variable.set_metadata(axes=("layers", *variable.axes))
    return layers


def rms_norm(x_BLD: jax.Array, scale_D: jax.Array, eps: float, dtype: Any) -> jax.Array:
    """Root-mean-square norm without mean or bias (T5's layer norm).

    NUMERICS: computed in float32, as T5X does, whatever the activations' dtype.
    """
    x = x_BLD.astype(jnp.float32)
    inverse = jax.lax.rsqrt(jnp.mean(jnp.square(x), axis=-1, keepdims=True) + eps)
    return (x * inverse).astype(dtype) * scale_D.astype(dtype)[None, None]


def dropout_mask(rate: float, key: jax.Array, shape: Sequence[int]) -> jax.Array:
    """Returns 0 where dropped and 1 / (1 - rate) where kept, in float32."""
    return jax.random.bernoulli(key, 1.0 - rate, shape) / jnp.float32(1.0 - rate)


def dropout(x_BLD: jax.Array, rate: float, key: jax.Array | None) -> jax.Array:
    """Drops whole channels of a sequence: one mask per row and channel, shared by all positions, as Mesh-TF and T5X do.

    The mask is [B, 1, D], so its random numbers cost nothing next to the matrix products.
    """
    if key is None or rate == 0.0:
        return x_BLD
    mask_B1D = dropout_mask(rate, key, (x_BLD.shape[0], 1, x_BLD.shape[2]))
    # NUMERICS: the factor is applied in float32; 1 / (1 - rate) in bfloat16 would be off by up to 0.4 %.
    return (x_BLD.astype(jnp.float32) * mask_B1D).astype(x_BLD.dtype)


class MLP(nnx.Module):
    """``wo(act(wi(x)))``, or ``wo(act(wi_0(x)) * wi_1(x))`` when gated (Shazeer 2020, arXiv:2002.05202)."""

    def __init__(self, d_model: int, d_ff: int, activation: str, key: jax.Array):
        self.activation = activation
        keys = jax.random.split(key, 3)
        init = truncated_normal(d_model**-0.5)
        if ACTIVATIONS[activation][1]:
            self.wi_0 = param(init, keys[0], embed=d_model, mlp=d_ff)
            self.wi_1 = param(init, keys[1], embed=d_model, mlp=d_ff)
        else:
            self.wi = param(init, keys[0], embed=d_model, mlp=d_ff)
        self.wo = param(truncated_normal(d_ff**-0.5), keys[2], mlp=d_ff, embed=d_model)

    def __call__(self, x_BLD: jax.Array, rate: float, key: jax.Array | None) -> jax.Array:
        """Returns [B, L, D]; dropout acts on the hidden activations."""
        dtype = x_BLD.dtype
        function, gated = ACTIVATIONS[self.activation]
        if gated:
            hidden_BLF = function(x_BLD @ self.wi_0[...].astype(dtype))
            hidden_BLF *= x_BLD @ self.wi_1[...].astype(dtype)
        else:
            hidden_BLF = function(x_BLD @ self.wi[...].astype(dtype))
        hidden_BLF = constrain(dropout(hidden_BLF, rate, key), "batch", "length", "mlp")
        return hidden_BLF @ self.wo[...].astype(dtype)
