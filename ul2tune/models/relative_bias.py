"""T5's relative position bias: a number per head and bucket of distance (Raffel et al. 2020, §2.1).

Distances are those of row indexes. Segments of a packed row are contiguous, so inside a segment
index distances are position distances, and the bias has no batch axis.

Axes: B batch, L query length, S key length, H heads, R buckets, W = L + S - 1 possible distances,
G groups of rows that lie on different devices.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from ul2tune.models.layers import param, uniform
from ul2tune.models.linear import materialized
from ul2tune.sharding import constrain


def buckets(
    distances: np.ndarray, *, bidirectional: bool, num_buckets: int, max_distance: int
) -> np.ndarray:
    """Maps ``key index - query index`` to bucket numbers, elementwise.

    Half of the buckets are exact (distances 0, 1, 2, …), the other half grow logarithmically up to
    `max_distance`, and everything beyond shares the last one. Bidirectional attention spends the
    upper half of all buckets on keys to the right; causal attention maps those to bucket 0.

        num_buckets=8, max_distance=16, bidirectional:
        distance -20 -8 -4 -3 -2 -1  0  1  2  3  4  8 20
        bucket     3  3  2  2  2  1  0  5  6  6  6  7  7
    """
    offset = np.zeros_like(distances)
    behind = -np.asarray(distances)
    if bidirectional:
        num_buckets //= 2
        offset = np.where(behind < 0, num_buckets, 0)
        behind = np.abs(behind)
    else:
        behind = np.maximum(behind, 0)
    num_exact = num_buckets // 2
    # NUMERICS: T5X's very formula, in NumPy as there: its float32 epsilon decides the bucket at
    # exact powers, and the logarithms of compilers and GPUs round differently. The division is in
    # float64, as NumPy 2 has it.
    ratio = behind.astype(np.float32) / num_exact + np.finfo(np.float32).eps
    logs = np.log(ratio).astype(np.float64)
    scaled = logs / np.log(max_distance / num_exact) * (num_buckets - num_exact)
    far = np.minimum(num_exact + scaled.astype(np.int32), num_buckets - 1)
    return offset + np.where(behind < num_exact, behind, far)


def table(num_heads: int, num_buckets: int, key: jax.Array) -> nnx.Param:
    """The parameter [H, R], initialised as T5X does (uniform, scaled by the mean of both sizes)."""
    init = uniform((6 / (num_heads + num_buckets)) ** 0.5)
    return param(init, key, heads=num_heads, relpos_buckets=num_buckets)


def by_distance(
    table_HR: jax.Array,
    query_length: int,
    key_length: int,
    *,
    bidirectional: bool,
    max_distance: int,
) -> jax.Array:
    """Returns float32 bias_HW; entry w is for ``key index - query index = w - (query_length - 1)``,
    from the furthest key on the left to the furthest on the right.
    """
    distances_W = np.arange(query_length + key_length - 1) - (query_length - 1)
    buckets_W = buckets(
        distances_W,
        bidirectional=bidirectional,
        num_buckets=table_HR.shape[1],
        max_distance=max_distance,
    )
    # A product with a one-hot matrix: its gradient is a product too, where a gather's would be a
    # scatter, which XLA runs serially on CPU.
    one_hot_RW = jax.nn.one_hot(buckets_W, table_HR.shape[1], axis=0)
    return jnp.matmul(table_HR, one_hot_RW, precision=jax.lax.Precision.HIGHEST)


def toeplitz(bias_HW: jax.Array, query_length: int) -> jax.Array:
    """Spreads a bias by distance over a matrix: out[h, i, j] = bias[h, j - i + query_length - 1].

    Only reshapes: repeating a vector of length W + 1 and cutting the result into rows of length W
    moves every row one step to the right; nothing is gathered, nor scattered in the gradient.

        W = 4, vector a b c d _      rows  a b c d
                                           _ a b c
                                           d _ a b      (the corner is cut off: columns >= L - 1)

    Args:
      bias_HW: [H, L + S - 1] as made by :func:`by_distance`.
      query_length: L.

    Returns:
      [H, L, S].
    """
    num_heads, width = bias_HW.shape
    key_length = width + 1 - query_length
    if key_length < query_length:  # repeat as often as the shorter side is long
        return jnp.swapaxes(toeplitz(bias_HW[:, ::-1], key_length), 1, 2)
    tiled = jnp.broadcast_to(
        jnp.pad(bias_HW, ((0, 0), (0, 1)))[:, None], (num_heads, query_length, width + 1)
    )
    flat = tiled.reshape(num_heads, -1)[:, : query_length * width]
    return flat.reshape(num_heads, query_length, width)[:, :, query_length - 1 :]


def toeplitz_per_group(bias_HW: jax.Array, query_length: int, groups: int) -> jax.Array:
    """:func:`toeplitz` once for each group of rows, [G, H, L, S].

    Every device then sums the gradient of its own rows by distance, and devices add arrays [H, W]
    instead of [H, L, S].
    """
    if groups == 1:
        return toeplitz(bias_HW, query_length)[None]
    bias_GHW = jnp.broadcast_to(bias_HW[None], (groups, *bias_HW.shape))
    bias_GHW = constrain(bias_GHW, "batch", "heads", None)
    bias_GHLS = jax.vmap(lambda bias_HW: toeplitz(bias_HW, query_length))(bias_GHW)
    return constrain(bias_GHLS, "batch", "heads", None, None)


@jax.custom_vjp
def add_to_rows(logits_BHLS: jax.Array, bias_GHLS: jax.Array) -> jax.Array:
    """Returns ``logits + bias``, the same bias for all B / G rows of a group.

    The gradient is a product with ones: XLA for CPU sums over a leading axis a hundred times slower
    than it multiplies (in a small T5's training step that sum took a seventh of the time).
    """
    groups = bias_GHLS.shape[0]
    if groups == 1:
        return logits_BHLS + bias_GHLS
    return (_group(logits_BHLS, groups) + bias_GHLS[:, None]).reshape(logits_BHLS.shape)


def _group(x_BHLS: jax.Array, groups: int) -> jax.Array:
    """[B, H, L, S] -> [G, B / G, H, L, S]"""
    return x_BHLS.reshape(groups, -1, *x_BHLS.shape[1:])


def _add_forward(logits_BHLS: jax.Array, bias_GHLS: jax.Array) -> tuple[jax.Array, jax.Array]:
    # The gradient needs the number of groups only. Residuals must be arrays, so it is the size of
    # an empty one.
    return add_to_rows(logits_BHLS, bias_GHLS), jnp.zeros((bias_GHLS.shape[0], 0))


def _add_backward(empty_G0: jax.Array, grad_BHLS: jax.Array) -> tuple[jax.Array, jax.Array]:
    groups = empty_G0.shape[0]
    grad_BHLS = materialized(grad_BHLS)  # two read it
    ones_B = jnp.ones(grad_BHLS.shape[0] // groups, grad_BHLS.dtype)
    # NUMERICS: as exact as the sum it stands for.
    highest = jax.lax.Precision.HIGHEST
    if groups == 1:
        return grad_BHLS, jnp.einsum("B,BHLS->HLS", ones_B, grad_BHLS, precision=highest)[None]
    grouped = _group(grad_BHLS, groups)
    return grad_BHLS, jnp.einsum("B,GBHLS->GHLS", ones_B, grouped, precision=highest)


add_to_rows.defvjp(_add_forward, _add_backward)
