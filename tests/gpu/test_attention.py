"""cuDNN's attention beside float32. `make test-gpu`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ul2tune.models import attention
from ul2tune.models.visibility import Visibility

FUSED = "cudnn"
ROWS, HEADS, SIZE = 4, 6, 64
# name -> query length, key length, causal, with a bias
SIDES = {
    "encoder": (256, 256, False, True),
    "decoder": (114, 114, True, True),
    "cross": (114, 256, False, False),
}


def segments(rows: str, length: int, seed: int) -> jax.Array:
    index_L, random = np.arange(length), np.random.default_rng(seed)
    if rows == "full":
        ids = np.ones((ROWS, length))
    elif rows == "padded":
        ids = index_L < random.integers(1, length + 1, (ROWS, 1))
    else:  # three segments, then padding
        ids = 1 + np.searchsorted([length // 4, length // 2, length - 8], index_L, side="right")
        ids = np.tile(np.where(ids > 3, 0, ids), (ROWS, 1))
    return jnp.asarray(ids, jnp.int32)


def inputs(length: int, keys: int, kv_heads: int) -> tuple[jax.Array, ...]:
    """Float32 queries, keys and values."""
    random = np.random.default_rng(2)
    sizes = ((0.3, length, HEADS), (0.3, keys, kv_heads), (1.0, keys, kv_heads))
    return tuple(
        jnp.asarray(scale * random.standard_normal((ROWS, n, heads, SIZE)), jnp.float32)
        for scale, n, heads in sizes
    )


def compare(
    seen: Visibility, query: jax.Array, key: jax.Array, value: jax.Array, bias: Any = None
) -> None:
    """Output and gradients in bfloat16: no further from float32 than plain XLA's, or nearly so."""
    differentiable = (query, key, value) if bias is None else (query, key, value, bias)

    def computed(name: str, dtype: Any) -> list[np.ndarray]:
        how = attention.Implementation(name=name, chunk_tokens=64)

        def weighed(query, key, value, bias=None):
            rounded = (x.astype(dtype) for x in (query, key, value))
            out = attention.attend(*rounded, bias, seen, how).astype(jnp.float32)
            out = jnp.where((seen.query_BL != 0)[:, :, None, None], out, 0)
            return jnp.sum(jnp.sin(out)), out

        of: Callable[..., Any] = jax.value_and_grad(
            weighed, argnums=tuple(range(len(differentiable))), has_aux=True
        )
        (_, out), grads = jax.jit(of)(*differentiable)
        return [np.asarray(x, np.float64) for x in (out, *grads)]

    with jax.default_matmul_precision("highest"):
        exact = computed("xla", jnp.float32)
    theirs, ours = computed("xla", jnp.bfloat16), computed(FUSED, jnp.bfloat16)
    for fused, xla, reference in zip(ours, theirs, exact, strict=True):
        error, usual = (np.linalg.norm(x - reference) for x in (fused, xla))
        assert error <= 2 * usual, (error, usual, np.linalg.norm(reference))


@pytest.mark.parametrize("rows", ["full", "padded", "packed"])
@pytest.mark.parametrize("side", SIDES)
def test_cudnn_is_as_exact_as_xla(side, rows):
    length, keys, causal, biased = SIDES[side]
    query_BL = segments(rows, length, 0)
    key_BS = query_BL if length == keys else segments(rows, keys, 1)
    seen = Visibility(query_BL=query_BL, key_BS=key_BS, causal=causal, packed=rows == "packed")
    bias_HW = np.random.default_rng(3).standard_normal((HEADS, length + keys - 1))
    compare(seen, *inputs(length, keys, HEADS), jnp.asarray(bias_HW) if biased else None)


@pytest.mark.parametrize("rows", ["full", "padded", "packed"])
@pytest.mark.parametrize(
    "beyond",
    [{}, {"prefix": 100}, {"window": 32}, {"window": 32, "prefix": 100}, {"own_keys": 256}],
    ids=["causal", "prefix", "window", "prefix and window", "merged"],
)
def test_cudnn_with_shared_heads_and_all_that_decoders_see(beyond, rows):
    """Two query heads per key head; prefixes, windows, and T5Gemma 2's keys of two sequences."""
    length = 256
    query_BL = segments(rows, length, 0)
    more = dict(beyond)
    if "prefix" in more:
        within_L = np.arange(length) < more.pop("prefix")
        more["prefix_BL"] = jnp.asarray(within_L & (np.asarray(query_BL) != 0), jnp.int32)
    key_BS = query_BL
    if "own_keys" in more:
        key_BS = jnp.concatenate([query_BL, segments(rows, length, 1)], axis=1)
    seen = Visibility(
        query_BL=query_BL, key_BS=key_BS, causal=True, packed=rows == "packed", **more
    )
    compare(seen, *inputs(length, key_BS.shape[1], HEADS // 2))


def test_queries_that_see_no_key_read_0_and_make_no_gradient_nan():
    """Packed rows with padding, and a segment without inputs, on the decoder's side alone."""
    query_BL, key_BS = (np.ones((ROWS, length), np.int32) for length in (114, 256))
    query_BL[:, 40:100], query_BL[:, 100:] = 2, 0
    seen = Visibility(
        query_BL=jnp.asarray(query_BL), key_BS=jnp.asarray(key_BS), causal=False, packed=True
    )
    compare(seen, *inputs(114, 256, HEADS))
