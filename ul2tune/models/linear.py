"""Products with weights, and arrays laid out in memory as products read them.

Most of this file is for XLA for CPU, which multiplies fast only what lies in the right order and
was written to memory beforehand. On other platforms the helpers compile to plain transpositions or
to nothing.

Axes: B batch, L length, H heads, A head size; of a product of matrices M rows, D and F columns; X
the rest of any.
"""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp


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
    # Written out, not a call of `_product`: a remat policy must see the product, and would see only
    # a custom_vjp call.
    return x_MD @ kernel_DF.astype(x_MD.dtype), (x_MD, kernel_DF)


def _product_backward(residuals: Any, grad_MF: jax.Array) -> tuple[jax.Array, jax.Array]:
    x_MD, kernel_DF = residuals
    grad_MD = jnp.einsum("MF,DF->MD", grad_MF, kernel_DF.astype(x_MD.dtype))
    # Chosen when the program is lowered, for the platform it is lowered for: a program for a TPU
    # may be compiled in a process that has only CPUs.
    x_DM = jax.lax.platform_dependent(x_MD, cpu=_transposed_copy, default=jnp.transpose)
    grad_DF = jnp.matmul(x_DM, grad_MF, preferred_element_type=kernel_DF.dtype)
    return grad_MD, grad_DF


_product.defvjp(_product_forward, _product_backward)


def materialized(x: jax.Array) -> jax.Array:
    """Returns `x`, and makes XLA for CPU write it to memory once.

    Without this XLA fuses the computation of `x` into each operation that reads it, and so repeats
    it; where such an operation also transposes, the fused loop is not vectorised.
    """
    return jax.lax.platform_dependent(x, cpu=jax.lax.optimization_barrier, default=lambda x: x)


@jax.custom_vjp
def heads_first(x_BLHA: jax.Array) -> jax.Array:
    """Swaps length and heads, [B, L, H, A] -> [B, H, L, A], and materialises the result on CPU.

    Otherwise XLA for CPU copies the heads out of the projection once for every product that reads
    them (2 to 3 % of a step). Where one product reads the result, :func:`swap` will do.
    """
    return jax.lax.platform_dependent(x_BLHA, cpu=_heads_first_copy, default=swap)


# The gradient is read once only, so it is swapped back without the copy.
heads_first.defvjp(
    lambda x_BLHA: (heads_first(x_BLHA), None), lambda _, grad_BHLA: (swap(grad_BHLA),)
)


def swap(x_BLHA: jax.Array) -> jax.Array:
    """Swaps length and heads, either way; XLA decides whether that is written to memory."""
    return jnp.swapaxes(x_BLHA, 1, 2)


def _heads_first_copy(x_BLHA: jax.Array) -> jax.Array:
    x_BHLA = swap(x_BLHA)
    # The barrier is on a flattened view: on [B, H, L, A] itself XLA makes two copies, the first of
    # them in the old order.
    flat_BHX = jax.lax.optimization_barrier(x_BHLA.reshape(*x_BHLA.shape[:2], -1))
    return flat_BHX.reshape(x_BHLA.shape)


def _transposed_copy(x_MD: jax.Array) -> jax.Array:
    """``x.T``, written to memory in that order.

    XLA for CPU multiplies by such a copy a sixth faster than by a transposed view. The first
    barrier keeps it from computing `x` again for the copy, the second from moving the transposition
    back into the product. The reshape to three axes in between makes the copy the only
    transposition there is.
    """
    rows, columns = x_MD.shape
    x_DM = jax.lax.optimization_barrier(x_MD).T
    if rows % 8 == 0:
        x_DM = x_DM.reshape(columns, -1, 8)
    return jax.lax.optimization_barrier(x_DM).reshape(columns, rows)
