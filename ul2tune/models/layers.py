"""What models are made of: parameters with logical axes, embedding, norm, dropout, feed-forward,
logits.

Axes: B batch, L length, D model, F mlp, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.nn.initializers import zeros
from jax.typing import DTypeLike

from ul2tune.models.linear import linear, materialized
from ul2tune.sharding import constrain

# Name -> (function, whether it multiplies a second projection). GELU is its tanh approximation, as
# in Mesh-TF, T5X and Hugging Face's "gelu_new".
ACTIVATIONS: dict[str, tuple[Callable[[jax.Array], jax.Array], bool]] = {
    "relu": (jax.nn.relu, False),
    "gelu": (jax.nn.gelu, False),
    "gelu_gated": (jax.nn.gelu, True),
    "silu_gated": (jax.nn.silu, True),
}
# A dropout rate and the key that turns dropout on.
Dropout = tuple[float, jax.Array | None]
Init = Callable[[jax.Array, Sequence[int], DTypeLike], jax.Array]


# NUMERICS: not JAX's own `normal`, which rounds otherwise in JAX 0.12 than in 0.10.
def normal(std: float) -> Init:
    """Normal initialiser with the given standard deviation."""
    return lambda key, shape, dtype: std * jax.random.normal(key, shape, dtype)


def truncated_normal(std: float) -> Init:
    """Normal initialiser cut at two standard deviations, rescaled to have the given one."""
    # The standard deviation of a unit normal truncated to [-2, 2].
    scale = std / 0.87962566103423978
    return lambda key, shape, dtype: scale * jax.random.truncated_normal(key, -2, 2, shape, dtype)


def uniform(limit: float) -> Init:
    """Uniform initialiser on [-limit, limit)."""
    return lambda key, shape, dtype: jax.random.uniform(key, shape, dtype, -limit, limit)


def param(init: Init, key: jax.Array, **axes: int) -> nnx.Param:
    """A float32 parameter; the keywords are its axes: ``param(init, key, embed=512, mlp=2048)``."""
    return nnx.Param(init(key, tuple(axes.values()), jnp.float32), axes=tuple(axes))


def stack(make: Callable[[jax.Array], Any], num_layers: int, key: jax.Array) -> Any:
    """Returns one module that holds independent layers: every parameter gets a `layers` axis."""
    layers = jax.vmap(make)(jax.random.split(key, num_layers))
    for _, variable in nnx.iter_graph(layers):
        if isinstance(variable, nnx.Param):
            variable.set_metadata(axes=("layers", *variable.axes))
    return layers


def look_up(table_VD: jax.Array, ids_BL: jax.Array, axis: str = "vocab") -> jax.Array:
    """Rows of an embedding, [B, L, D]; `axis` is the logical axis of the table's first dimension.

    The table is gathered over `fsdp` before the look-up. Rows looked up in a table that is split
    along D would be split along D too; to split them along B instead, XLA replicates them on some
    meshes.
    """
    return constrain(table_VD, axis, None)[ids_BL]


def rms_norm(x_BLD: jax.Array, scale_D: jax.Array, eps: float) -> jax.Array:
    """Root-mean-square norm without mean or bias (T5's layer norm), over the last of any axes.

    NUMERICS: computed in float32, as T5X does, whatever the activations' dtype.
    """
    x = x_BLD.astype(jnp.float32)
    inverse = jax.lax.rsqrt(jnp.mean(jnp.square(x), axis=-1, keepdims=True) + eps)
    scale = jnp.expand_dims(scale_D, range(x.ndim - 1))
    return _shared((x * inverse * scale).astype(x_BLD.dtype))


@jax.custom_vjp
def _shared(x: jax.Array) -> jax.Array:
    """Returns `x`. Several products read it; on CPU the sum of their gradients is materialised."""
    return x


_shared.defvjp(lambda x: (x, None), lambda _, grad: (materialized(grad),))


def scale_down(hidden_BLD: jax.Array, d_model: int) -> jax.Array:
    """Returns ``hidden * d_model ** -0.5``, by which T5 scales tied logits.

    NUMERICS: multiplied in float32, then rounded to the activations' dtype.
    """
    return (hidden_BLD.astype(jnp.float32) * d_model**-0.5).astype(hidden_BLD.dtype)


def logits(hidden: jax.Array, head_VD: jax.Array, softcap: float | None) -> jax.Array:
    """Float32 logits [..., V] of final states [..., D]; the operands have the dtype of `hidden`."""
    head_VD = head_VD.astype(hidden.dtype)
    product = jnp.einsum("...D,VD->...V", hidden, head_VD, preferred_element_type=jnp.float32)
    return cap(product, softcap)


def cap(logits: jax.Array, softcap: float | None) -> jax.Array:
    """Returns ``cap * tanh(logits / cap)``; None caps nothing."""
    return logits if softcap is None else softcap * jnp.tanh(logits / softcap)


def split_key(key: jax.Array | None, num: int) -> list[Any]:
    """Splits a dropout key; no key (dropout is off) stays no key."""
    return [None] * num if key is None else list(jax.random.split(key, num))


def keep_mask(dropout: Dropout, shape: Sequence[int]) -> jax.Array | None:
    """Returns 0 where dropped and 1 / (1 - rate) where kept, float32; None where dropout is off."""
    rate, key = dropout
    if key is None or rate == 0.0:
        return None
    return jax.random.bernoulli(key, 1.0 - rate, shape) / jnp.float32(1.0 - rate)


def drop(x: jax.Array, mask: jax.Array) -> jax.Array:
    """Multiplies by a mask of :func:`keep_mask`.

    NUMERICS: in float32; 1 / (1 - rate) in bfloat16 would be off by up to 0.4 %.
    """
    return (x.astype(jnp.float32) * mask).astype(x.dtype)


def drop_channels(x_BLD: jax.Array, dropout: Dropout) -> jax.Array:
    """Dropout with one mask per row and channel, shared by all positions, as Mesh-TF has it.

    The mask is [B, 1, D]: its random numbers cost nothing next to the matrix products.

    DIVERGES: T5X shares the mask everywhere but after the encoder's final norm.
    """
    mask_BD = keep_mask(dropout, (x_BLD.shape[0], x_BLD.shape[2]))
    return x_BLD if mask_BD is None else drop(x_BLD, mask_BD[:, None])


class MLP(nnx.Module):
    """``wo(f(wi(x)))`` or, gated, ``wo(f(wi_0(x)) * wi_1(x))`` (Shazeer 2020, arXiv:2002.05202).

    With `bias` each product adds one: `wi_bias`, `wi_0_bias`, `wi_1_bias`, `wo_bias`.
    """

    def __init__(
        self, d_model: int, d_ff: int, activation: str, key: jax.Array, *, bias: bool = False
    ):
        self.activation, self.bias = activation, bias
        keys = jax.random.split(key, 3)
        init = truncated_normal(d_model**-0.5)
        names = ("wi_0", "wi_1") if ACTIVATIONS[activation][1] else ("wi",)
        for name, init_key in zip(names, keys):
            setattr(self, name, param(init, init_key, embed=d_model, mlp=d_ff))
            if bias:
                setattr(self, f"{name}_bias", param(zeros, key, mlp=d_ff))
        self.wo = param(truncated_normal(d_ff**-0.5), keys[2], mlp=d_ff, embed=d_model)
        if bias:
            self.wo_bias = param(zeros, key, embed=d_model)

    def project(self, x: jax.Array, name: str) -> jax.Array:
        """One of the products: `name` is "wi", "wi_0", "wi_1" or "wo"."""
        bias = getattr(self, f"{name}_bias")[...] if self.bias else None
        return linear(x, getattr(self, name)[...], 1, bias)

    def __call__(self, x_BLD: jax.Array, dropout: Dropout) -> jax.Array:
        """Returns [B, L, D]; dropout acts on the hidden activations."""
        function, gated = ACTIVATIONS[self.activation]
        if gated:
            hidden_BLF = function(self.project(x_BLD, "wi_0")) * self.project(x_BLD, "wi_1")
        else:
            hidden_BLF = function(self.project(x_BLD, "wi"))
        hidden_BLF = constrain(drop_channels(hidden_BLF, dropout), "batch", "length", "mlp")
        return self.project(hidden_BLF, "wo")
