"""What the blocks are made of: parameters with logical axes, products, norm, dropout, feed-forward.

Axes: B batch, L length, H heads, A head size, D model, F mlp; of a product of matrices M rows, D
and F columns; X the rest of any.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.nn.initializers import zeros
from jax.typing import DTypeLike

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


def linear(
    x: jax.Array, kernel: jax.Array, num_in: int, bias: jax.Array | None = None
) -> jax.Array:
    """Contracts the last `num_in` axes of `x` with the first of `kernel`, in the dtype of `x`; a
    bias has the kernel's remaining axes.

    Both are flattened to matrices first: XLA for CPU then transposes the operands of a product's
    gradient far more cheaply (a training step takes a seventh less); elsewhere nothing changes.
    """
    rows, columns = x.shape[: x.ndim - num_in], kernel.shape[num_in:]
    size = math.prod(kernel.shape[:num_in])
    y = _product(x.reshape(-1, size), kernel.reshape(size, -1))
    if bias is not None:
        y += bias.astype(x.dtype).reshape(1, -1)
    return y.reshape(*rows, *columns)


@jax.custom_vjp
def _product(x_MD: jax.Array, kernel_DF: jax.Array) -> jax.Array:
    """``x @ kernel`` in the dtype of `x`.

    NUMERICS: the kernel's gradient comes out of its product in the kernel's own float32. By JAX's
    rule it would be rounded to the dtype of `x` first, and then summed over devices in it.
    """
    return x_MD @ kernel_DF.astype(x_MD.dtype)


def _product_forward(x_MD: jax.Array, kernel_DF: jax.Array) -> tuple[jax.Array, Any]:
    # Not a call of `_product`: a remat policy has to see the product.
    return x_MD @ kernel_DF.astype(x_MD.dtype), (x_MD, kernel_DF)


def _product_backward(residuals: Any, grad_MF: jax.Array) -> tuple[jax.Array, jax.Array]:
    x_MD, kernel_DF = residuals
    grad_MD = jnp.einsum("MF,DF->MD", grad_MF, kernel_DF.astype(x_MD.dtype))
    # Decided by the platform compiled for, which need not be this process's.
    x_DM = jax.lax.platform_dependent(x_MD, cpu=_transposed_copy, default=jnp.transpose)
    grad_DF = jnp.matmul(x_DM, grad_MF, preferred_element_type=kernel_DF.dtype)
    return grad_MD, grad_DF


_product.defvjp(_product_forward, _product_backward)


def written(x: jax.Array) -> jax.Array:
    """Returns `x`, and makes XLA for CPU write it to memory once.

    Otherwise it computes an operand anew for each of its readers, in the order in which that reads:
    where a reader transposes, divisions and index arithmetic are not vectorised then.
    """
    return jax.lax.platform_dependent(x, cpu=jax.lax.optimization_barrier, default=lambda x: x)


def for_rows(x_PS: jax.Array, num_rows: int) -> jax.Array:
    """Repeats each of P rows B / P times, side by side: row b is row b // k of what is given.

    Where the rows of both are split over the same devices, each repeats its own.
    """
    if num_rows == x_PS.shape[0]:
        return x_PS
    return jnp.repeat(x_PS, num_rows // x_PS.shape[0], axis=0)


@jax.custom_vjp
def swapped(x_BLHA: jax.Array) -> jax.Array:
    """Swaps length and heads, [B, L, H, A] -> [B, H, L, A].

    XLA for CPU writes the result to memory once (see :func:`written`) for all products that read
    it; otherwise it copies heads out of the projections for each of them (2 to 3 % of a step).
    """
    return jax.lax.platform_dependent(x_BLHA, cpu=_swapped_copy, default=swap)


# With a rule of its own: the gradient has a single reader, where a barrier would be in the way.
swapped.defvjp(lambda x_BLHA: (swapped(x_BLHA), None), lambda _, grad_BHLA: (swap(grad_BHLA),))


def swap(x_BLHA: jax.Array) -> jax.Array:
    """As :func:`swapped`, but XLA decides whether and how often the result is written."""
    return jnp.swapaxes(x_BLHA, 1, 2)


def _swapped_copy(x_BLHA: jax.Array) -> jax.Array:
    x_BHLA = swap(x_BLHA)
    # Flattened for a moment: otherwise there are two copies, the first of them in the old order.
    flat_BHX = jax.lax.optimization_barrier(x_BHLA.reshape(*x_BHLA.shape[:2], -1))
    return flat_BHX.reshape(x_BHLA.shape)


def _transposed_copy(x_MD: jax.Array) -> jax.Array:
    """``x.T``, written to memory in that order.

    XLA for CPU multiplies by it a sixth faster than if it transposes while it multiplies. Barriers
    keep it from computing `x` again for the copy, and from moving the transposition back into the
    product; the detour over three axes leaves that one copy as the only transposition.
    """
    rows, columns = x_MD.shape
    x_DM = jax.lax.optimization_barrier(x_MD).T
    if rows % 8 == 0:
        x_DM = x_DM.reshape(columns, -1, 8)
    return jax.lax.optimization_barrier(x_DM).reshape(columns, rows)


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
    """Returns `x`, which several products read: the sum of their gradients is written once."""
    return x


_shared.defvjp(lambda x: (x, None), lambda _, grad: (written(grad),))


def scale_down(hidden_BLD: jax.Array, d_model: int) -> jax.Array:
    """Returns ``hidden * d_model ** -0.5``, by which T5 scales tied logits.

    NUMERICS: multiplied in float32, then rounded to the activations' dtype.
    """
    return (hidden_BLD.astype(jnp.float32) * d_model**-0.5).astype(hidden_BLD.dtype)


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
