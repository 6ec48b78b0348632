"""Reads a checkpoint in T5X's legacy format into our parameter layout; for tests only."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import flax.serialization
import numpy as np
import tensorstore

from ul2tune import tree

_BLOCK = {
    "encoder": {
        "self_attention": "attention",
        "self_attention_norm": "pre_attention_layer_norm",
        "mlp_norm": "pre_mlp_layer_norm",
    },
    "decoder": {
        "self_attention_norm": "pre_self_attention_layer_norm",
        "cross_attention": "encoder_decoder_attention",
        "cross_attention_norm": "pre_cross_attention_layer_norm",
        "mlp_norm": "pre_mlp_layer_norm",
    },
}
_TOP = {
    "token_embedding": "token_embedder/embedding",
    "head": "decoder/logits_dense/kernel",
    "encoder/final_norm": "encoder/encoder_norm/scale",
    "decoder/final_norm": "decoder/decoder_norm/scale",
    "encoder/relative_bias": "encoder/relpos_bias/rel_embedding",
    "decoder/relative_bias": "decoder/relpos_bias/rel_embedding",
}


def load(checkpoint: Path) -> dict[str, np.ndarray]:
    """Returns every leaf by path: ``target/...``, ``state/step``, ``state/param_states/...``."""
    state = flax.serialization.msgpack_restore((checkpoint / "checkpoint").read_bytes())

    def visit(node: Any, path: str) -> dict[str, np.ndarray]:
        if not isinstance(node, dict):
            return {path: np.asarray(node)}
        if "kvstore" in node:
            location = {"driver": "file", "path": str(checkpoint / node["kvstore"]["path"])}
            spec = {"driver": "zarr", "kvstore": location}
            return {path: np.asarray(tensorstore.open(spec).result().read().result())}
        parts = [visit(value, f"{path}/{key}" if path else key) for key, value in node.items()]
        return {path: leaf for part in parts for path, leaf in part.items()}

    return visit(state["optimizer"], "")


def names(path: str, num_layers: int) -> list[str]:
    """T5X's names of our parameter: one per layer if it is stacked."""
    stacked = re.fullmatch(r"(encoder|decoder)/layers/(\w+)(/\w+)?", path)
    if not stacked:
        return [_TOP[path]]
    stack, block, kernel = stacked.groups()
    block = _BLOCK[stack].get(block, block)
    leaf = f"{kernel}/kernel" if kernel else "/scale"
    return [f"{stack}/layers_{layer}/{block}{leaf}" for layer in range(num_layers)]


def convert(flat: dict[str, np.ndarray], like: Any, prefix: str = "", suffix: str = "") -> Any:
    """Stacks T5X's arrays ``prefix + name + suffix`` and splits heads, to the shapes of `like`.

    `suffix` "/v_row" and so on reads a moment: its placeholders (1,) stay as they are.
    """

    def leaf(path, target):
        arrays = [flat[prefix + name + suffix] for name in names(path, num_layers=2)]
        if target.shape == (1,):
            assert all(array.shape == (1,) for array in arrays), path
            return arrays[0]
        if path == "head" and arrays[0].ndim == 2:
            arrays = [arrays[0].T]
        return np.stack(arrays).reshape(target.shape)

    return tree.map_with_path(leaf, like)
