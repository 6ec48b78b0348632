"""Reads T5X's legacy checkpoints, just enough for tests: msgpack, zarr v2, gzip."""

from __future__ import annotations

import gzip
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgpack
import numpy as np

from ul2tune import tree
from ul2tune.models.t5 import T5Config


def _decode_extension(code: int, data: bytes) -> np.ndarray:
    """Flax's msgpack extensions: 1 is an array, 3 a NumPy scalar; both (shape, dtype, bytes)."""
    assert code in (1, 3), code
    shape, dtype, buffer = msgpack.unpackb(data, raw=False)
    return np.frombuffer(buffer, dtype).reshape(shape)


def _read_zarr(folder: Path) -> np.ndarray:
    spec = json.loads((folder / ".zarray").read_text())
    assert spec["order"] == "C"
    assert spec["compressor"]["id"] == "gzip"
    array = np.empty(spec["shape"], spec["dtype"])
    grid = [range(-(-size // chunk)) for size, chunk in zip(spec["shape"], spec["chunks"])]
    for index in np.ndindex(*map(len, grid)):
        data = gzip.decompress((folder / ".".join(map(str, index))).read_bytes())
        chunk = np.frombuffer(data, spec["dtype"]).reshape(spec["chunks"])
        region = tuple(
            slice(i * size, min((i + 1) * size, total))
            for i, size, total in zip(index, spec["chunks"], spec["shape"])
        )
        array[region] = chunk[tuple(slice(0, r.stop - r.start) for r in region)]
    return array


def read(folder: Path) -> dict[str, np.ndarray]:
    """Returns ``{"encoder/…": array}`` of the `target` parameters."""
    packed = (folder / "checkpoint").read_bytes()
    content = msgpack.unpackb(packed, ext_hook=_decode_extension, raw=False, strict_map_key=False)

    def leaves(node: Mapping[str, Any], prefix: str):
        for name, value in node.items():
            path = f"{prefix}/{name}" if prefix else name
            if isinstance(value, Mapping) and {"driver", "kvstore", "metadata"} <= set(value):
                yield path, _read_zarr(folder / value["kvstore"]["path"].rstrip("/"))
            elif isinstance(value, Mapping):
                yield from leaves(value, path)
            else:
                yield path, value

    return dict(leaves(content["optimizer"]["target"], ""))


def names(config: T5Config) -> dict[str, tuple[list[str], tuple[int, ...] | None]]:
    """Our path -> T5X's names (one, or one per layer) and the shape of one of ours (None: as is).

    The head is [D, V] in T5X and [V, D] here.
    """
    d, h, a = config.d_model, config.num_heads, config.d_kv
    table: dict[str, tuple[list[str], tuple[int, ...] | None]] = {
        "token_embedding": (["token_embedder/embedding"], None),
        "head": (["decoder/logits_dense/kernel"], None),
    }
    attention = {"query": (d, h, a), "key": (d, h, a), "value": (d, h, a), "out": (h, a, d)}
    kernels = ("wi_0", "wi_1", "wo") if config.activation.endswith("_gated") else ("wi", "wo")
    for side, depth, self_attention, self_norm in (
        ("encoder", config.num_encoder_layers, "attention", "pre_attention_layer_norm"),
        ("decoder", config.num_decoder_layers, "self_attention", "pre_self_attention_layer_norm"),
    ):
        blocks = {"self_attention": self_attention}
        layer: dict[str, tuple[str, tuple[int, ...] | None]] = {
            "self_attention_norm": (f"{self_norm}/scale", None),
            "mlp_norm": ("pre_mlp_layer_norm/scale", None),
            **{f"mlp/{kernel}": (f"mlp/{kernel}/kernel", None) for kernel in kernels},
        }
        if side == "decoder":
            blocks["cross_attention"] = "encoder_decoder_attention"
            layer["cross_attention_norm"] = ("pre_cross_attention_layer_norm/scale", None)
        for ours, theirs in blocks.items():
            for kernel, shape in attention.items():
                layer[f"{ours}/{kernel}"] = (f"{theirs}/{kernel}/kernel", shape)
        for ours, (theirs, shape) in layer.items():
            per_layer = [f"{side}/layers_{n}/{theirs}" for n in range(depth)]
            table[f"{side}/layers/{ours}"] = (per_layer, shape)
        table[f"{side}/relative_bias"] = ([f"{side}/relpos_bias/rel_embedding"], None)
        table[f"{side}/final_norm"] = ([f"{side}/{side}_norm/scale"], None)
    if config.tied_logits:
        del table["head"]
    return table


def to_params(leaves: Mapping[str, np.ndarray], config: T5Config) -> dict[str, Any]:
    """Our parameters from T5X's; every one of T5X's must be used."""
    params, used = {}, set()
    for path, (sources, shape) in names(config).items():
        arrays = [
            leaves[name] if shape is None else leaves[name].reshape(shape) for name in sources
        ]
        params[path] = np.stack(arrays) if "/layers/" in path else arrays[0]
        used.update(sources)
    params |= {"head": params["head"].T} if "head" in params else {}
    assert used == set(leaves), used ^ set(leaves)
    return tree.unflatten(params)
