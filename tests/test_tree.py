"""Trees by path."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ul2tune import tree

NESTED = {"b": {"y": 3, "x": {"z": 2}}, "a": 1}
FLAT = {"a": 1, "b/x/z": 2, "b/y": 3}


def test_flatten_is_sorted_and_has_an_inverse():
    assert list(tree.flatten(NESTED).items()) == list(FLAT.items())
    assert tree.unflatten(FLAT) == NESTED


def test_map_with_path():
    found = tree.map_with_path(lambda path, x, y: (path, x + y), NESTED, NESTED)
    assert tree.flatten(found) == {path: (path, 2 * x) for path, x in FLAT.items()}
    with pytest.raises(AssertionError, match="b/y"):
        tree.map_with_path(lambda path, x, y: None, NESTED, {"a": 1, "b": {"x": {"z": 2}}})


def test_partition_and_merge():
    mask = {"b": {"y": False, "x": {"z": True}}, "a": False}
    chosen, rest = tree.partition(NESTED, mask)
    assert chosen == {"b": {"x": {"z": 2}}}
    assert rest == {"a": 1, "b": {"y": 3}}
    assert tree.merge(chosen, rest) == NESTED
    assert tree.partition(NESTED, tree.map_with_path(lambda *_: True, NESTED)) == (NESTED, {})
    with pytest.raises(AssertionError, match="b/x/z"):
        tree.merge(chosen, NESTED)


def test_counts():
    leaves = {"a": jnp.zeros((3, 4)), "b": jax.ShapeDtypeStruct((5,), jnp.bfloat16)}
    assert tree.num_elements(leaves) == 17
    assert tree.num_bytes(leaves) == 58


def test_global_norm_is_summed_in_float32():
    leaves = {"a": jnp.full((1 << 12,), 1, jnp.bfloat16), "b": jnp.full((2,), 3.0)}
    np.testing.assert_allclose(tree.global_norm(leaves), np.sqrt(4096 + 18), rtol=1e-6)
    assert tree.global_norm({}) == 0
