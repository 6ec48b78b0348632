"""Shardings of optimiser states: moments lie where their parameters lie."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
from jax.sharding import Mesh

from ul2tune import sharding, tree


def state_shardings(
    opt_state: Any, params: Mapping[str, Any], param_shardings: Mapping[str, Any], mesh: Mesh
) -> Any:
    """Returns a tree of shardings for `opt_state`, of any optax transformation.

    A leaf whose path ends with a parameter's path and which has that parameter's shape (Adam's
    moments, momentum, Adafactor's full `v`) is sharded like it. Everything else (counts,
    Adafactor's factored `v_row` and `v_col`, a thousandth of their parameter) is replicated.

    Args:
      opt_state: abstract or real, e.g. ``jax.eval_shape(optimizer.tx.init, params)``.
      params: the parameters `opt_state` was made for (the trainable ones), abstract or real.
      param_shardings: the same tree of shardings.
      mesh: the mesh to replicate over.
    """
    shapes, shardings = tree.flatten(params), tree.flatten(param_shardings)
    assert shapes.keys() == shardings.keys(), sorted(shapes.keys() ^ shardings.keys())

    def choose(key_path, leaf):
        # Trailing dict keys are the parameter's path, possibly after keys of the state's own.
        keys: list[str] = []
        for key in reversed(key_path):
            if not isinstance(key, jax.tree_util.DictKey):
                break
            keys.insert(0, str(key.key))
        for start in range(len(keys)):
            path = tree.SEPARATOR.join(keys[start:])
            if path in shapes and shapes[path].shape == leaf.shape:
                return shardings[path]
        return sharding.replicated(mesh)

    return jax.tree_util.tree_map_with_path(choose, opt_state)
