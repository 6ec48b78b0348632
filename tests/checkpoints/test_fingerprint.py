"""Fingerprints: independent of sharding, sensitive to every bit and to order."""

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from ul2tune.checkpoints.fingerprint import fingerprint, fingerprints

DTYPES = ["float32", "bfloat16", "float16", "int32", "uint8", "bool"]


def _array(dtype: str, shape=(8, 6)) -> np.ndarray:
    values = np.random.default_rng(0).integers(0, 255, shape)
    return values.astype(ml_dtypes.bfloat16 if dtype == "bfloat16" else dtype)


def _reference(x: np.ndarray) -> int:
    """The formula of the module's docstring in plain Python."""

    def mix(v: int) -> int:
        v ^= v >> 16
        v = v * 0x85EBCA6B % 2**32
        v ^= v >> 13
        v = v * 0xC2B2AE35 % 2**32
        return v ^ (v >> 16)

    words = x.reshape(-1).view(f"u{x.dtype.itemsize}")
    return sum(mix(int(w)) * (mix(i) | 1) for i, w in enumerate(words)) % 2**32


@pytest.mark.parametrize("dtype", DTYPES)
def test_matches_the_formula(dtype):
    x = _array(dtype)
    assert int(fingerprint(jnp.asarray(x))) == _reference(x)


def test_scalar_and_empty():
    assert int(fingerprint(jnp.int32(7))) == _reference(np.array([7], np.int32))
    assert int(fingerprint(jnp.zeros((0, 3)))) == 0


@pytest.mark.parametrize("spec", [P(), P("a"), P("a", "b"), P(None, "b"), P(("b", "a"))])
def test_is_independent_of_sharding(spec):
    x = _array("float32")
    mesh = jax.make_mesh((4, 2), ("a", "b"), axis_types=(AxisType.Auto,) * 2)
    sharded = jax.device_put(x, NamedSharding(mesh, spec))
    assert fingerprints({"x": sharded})["x"] == _reference(x)


def test_every_single_bit_counts():
    x = _array("float32", (3,))
    before = _reference(x)
    for bit in range(x.nbytes * 8):
        flipped = x.copy()
        flipped.view(np.uint8)[bit // 8] ^= 1 << (bit % 8)
        assert int(fingerprint(jnp.asarray(flipped))) != before, bit


def test_order_and_sign_of_zero_count():
    x = jnp.arange(6, dtype=jnp.float32)
    assert fingerprint(x) != fingerprint(x[::-1])
    assert fingerprint(jnp.float32(0.0)) != fingerprint(jnp.float32(-0.0))
