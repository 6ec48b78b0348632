from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ul2tune.models.norms import NORMS, Norm


@pytest.mark.parametrize("kind", NORMS)
@pytest.mark.parametrize("shape", [(2, 3, 8), (2, 3, 4, 8)])
def test_norms_by_hand(kind, shape):
    rng = np.random.default_rng(0)
    norm = Norm(kind, 0.01, jax.random.key(0), kv=8)
    scale, bias, x = rng.normal(size=8), rng.normal(size=8), rng.normal(size=shape) + 1
    norm.scale[...] = jnp.asarray(scale, jnp.float32)
    centre = x.mean(-1, keepdims=True) if kind == "layer" else 0.0
    expected = (x - centre) / np.sqrt(((x - centre) ** 2).mean(-1, keepdims=True) + 0.01)
    expected *= scale + (kind == "rms_offset")
    if kind == "layer":
        norm.bias[...] = jnp.asarray(bias, jnp.float32)
        expected += bias
    np.testing.assert_allclose(norm(jnp.asarray(x, jnp.float32)), expected, atol=1e-5)
    rounded = norm(jnp.asarray(x, jnp.bfloat16))
    assert rounded.dtype == jnp.bfloat16
    np.testing.assert_allclose(np.asarray(rounded, np.float32), expected, atol=0.1)


@pytest.mark.parametrize("kind", NORMS)
def test_norms_begin_as_the_identity_of_normed_inputs(kind):
    x = jnp.array([[[1.0, -1.0, 1.0, -1.0]]])
    np.testing.assert_allclose(Norm(kind, 0.0, jax.random.key(0), kv=4)(x), x, atol=1e-6)
