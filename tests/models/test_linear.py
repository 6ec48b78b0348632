from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ul2tune.models import linear


@pytest.mark.parametrize("length", [40, 41])  # XLA for CPU gets another program for odd numbers
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_kernels_gradient_is_not_rounded_to_the_dtype_of_the_activations(dtype, length):
    keys = jax.random.split(jax.random.key(0), 3)
    x_BLD = jax.random.normal(keys[0], (3, length, 6), dtype)
    kernel_DHA = jax.random.normal(keys[1], (6, 2, 5))
    weight_BLHA = jax.random.normal(keys[2], (3, length, 2, 5), dtype)

    def weighed(x_BLD, kernel_DHA):
        y_BLHA = linear.linear(x_BLD, kernel_DHA, 1)
        assert y_BLHA.dtype == dtype
        return jnp.sum((y_BLHA * weight_BLHA).astype(jnp.float32))

    x_grad, kernel_grad = jax.grad(weighed, argnums=(0, 1))(x_BLD, kernel_DHA)
    assert (x_grad.dtype, kernel_grad.dtype) == (dtype, jnp.float32)
    x, weight = (np.asarray(value, np.float64) for value in (x_BLD, weight_BLHA))
    expected = np.einsum("bld,blha->dha", x, weight)
    np.testing.assert_allclose(kernel_grad, expected, rtol=1e-5, atol=1e-5)
    rounded_DHA = np.asarray(kernel_DHA.astype(dtype), np.float64)
    expected = np.einsum("blha,dha->bld", weight, rounded_DHA)
    rtol = 1e-2 if dtype == "bfloat16" else 1e-5
    np.testing.assert_allclose(np.asarray(x_grad, np.float64), expected, rtol=rtol, atol=1e-5)


@pytest.mark.parametrize(("platform", "barriers"), [("cpu", 2), ("tpu", 0), ("cuda", 0)])
def test_what_helps_xla_for_cpu_is_of_no_other_platforms_program(platform, barriers):
    """Also where a CPU compiles for the other, as `tools/tpu_aot.py` does."""

    def summed(x_BLD, kernel_DF):
        return jnp.sum(linear.linear(x_BLD, kernel_DF, 1))

    traced = jax.jit(jax.grad(summed, argnums=1)).trace(jnp.ones((2, 4, 6)), jnp.ones((6, 3)))
    lowered = traced.lower(lowering_platforms=(platform,)).as_text()
    assert lowered.count("optimization_barrier") == barriers
