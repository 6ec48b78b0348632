"""Parameter trees by path: the one place that turns nested dicts into ``a/b/c`` names and back."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

SEPARATOR = "/"


def flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Returns ``{"a/b/c": leaf}`` in the order of sorted keys; all but mappings are leaves."""
    flat: dict[str, Any] = {}
    for key in sorted(tree):
        assert SEPARATOR not in key, key
        value, path = tree[key], f"{prefix}{key}"
        if isinstance(value, Mapping):
            flat.update(flatten(value, path + SEPARATOR))
        else:
            flat[path] = value
    return flat


def unflatten(flat: Mapping[str, Any]) -> dict[str, Any]:
    """The inverse of :func:`flatten` (empty sub-dicts are lost)."""
    tree: dict[str, Any] = {}
    for path, value in flat.items():
        *parents, last = path.split(SEPARATOR)
        node = tree
        for key in parents:
            node = node.setdefault(key, {})
        node[last] = value
    return tree


def map_with_path(function: Callable[..., Any], tree: Mapping[str, Any], *rest: Mapping[str, Any]):
    """Applies ``function(path, leaf, *other_leaves)``; the trees must have the same paths."""
    flat, others = flatten(tree), [flatten(other) for other in rest]
    for other in others:
        assert flat.keys() == other.keys(), sorted(flat.keys() ^ other.keys())
    return unflatten(
        {path: function(path, leaf, *(o[path] for o in others)) for path, leaf in flat.items()}
    )


def partition(
    tree: Mapping[str, Any], mask: Mapping[str, Any]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Splits into (leaves where `mask` is True, the other leaves); `mask` has the same paths."""
    flat, chosen = flatten(tree), flatten(mask)
    assert flat.keys() == chosen.keys(), sorted(flat.keys() ^ chosen.keys())
    parts = [{p: leaf for p, leaf in flat.items() if bool(chosen[p]) is on} for on in (True, False)]
    return unflatten(parts[0]), unflatten(parts[1])


def merge(*trees: Mapping[str, Any]) -> dict[str, Any]:
    """The inverse of :func:`partition`: one tree of the disjoint paths of all."""
    merged: dict[str, Any] = {}
    for tree in trees:
        flat = flatten(tree)
        assert not merged.keys() & flat.keys(), sorted(merged.keys() & flat.keys())
        merged.update(flat)
    return unflatten(merged)


def num_elements(tree: Any) -> int:
    """Total number of array elements of all leaves (works on `jax.ShapeDtypeStruct` too)."""
    return sum(int(leaf.size) for leaf in jax.tree.leaves(tree))


def num_bytes(tree: Any) -> int:
    """Total bytes of all leaves."""
    return sum(int(leaf.size) * jnp.dtype(leaf.dtype).itemsize for leaf in jax.tree.leaves(tree))


def global_norm(tree: Any) -> jax.Array:
    """L2 norm over all leaves, accumulated in float32.

    NUMERICS: squares are summed in float32 whatever the leaves' dtype; bfloat16 sums lose small
    leaves.
    """
    squares = [jnp.sum(jnp.square(leaf.astype(jnp.float32))) for leaf in jax.tree.leaves(tree)]
    return jnp.sqrt(sum(squares, start=jnp.zeros((), jnp.float32)))
