"""The smallest T5s and batches that show everything: unequal stacks, unequal lengths, padding."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ul2tune import tree
from ul2tune.models import base
from ul2tune.models.t5 import T5Config
from ul2tune.models.t5gemma import T5GemmaConfig
from ul2tune.types import Batch

VOCAB = 32
# Compiling is most of what these tests do; LLVM's optimisations are not what they test.
QUICK = {"xla_backend_optimization_level": 0}
# Two segments per row and padding: (source lengths, target lengths) of the segments of each row.
ROWS = (((5, 4), (3, 4)), ((7, 2), (2, 3)))
SOURCE_LENGTH, TARGET_LENGTH = 12, 8


def config(**changes: Any) -> T5Config:
    sizes: dict[str, Any] = {
        "vocab_size": VOCAB,
        "d_model": 16,
        "d_kv": 8,
        "d_ff": 24,
        "num_heads": 2,
        "num_encoder_layers": 2,
        "num_decoder_layers": 3,
        "relative_buckets": 8,
        "relative_max_distance": 10,
        "dtype": "float32",
    }
    return T5Config(**(sizes | changes))


def params(model: base.ModelConfig, seed: int = 0) -> Any:
    """Parameters about as large as initial ones, drawn by NumPy: nothing is compiled for them. The
    norms' scales are moved off one (Gemma's off zero) and biases off zero, so that they matter."""
    rng, abstract = np.random.default_rng(seed), base.abstract_params(model)
    usual = abstract["token_embedding"].shape[-1] ** -0.5
    offset = isinstance(model, T5GemmaConfig) or getattr(model, "norm", None) == "rms_offset"

    def draw(path: str, leaf: jax.ShapeDtypeStruct) -> np.ndarray:
        name = path.rsplit("/", 1)[-1]
        norm = "norm" in path and name != "bias"
        large = name == "token_embedding" and isinstance(model, T5Config)
        small = norm or name == "query" or (name.endswith("bias") and name != "relative_bias")
        std = 0.1 if small else 1.0 if large else usual
        return std * rng.standard_normal(leaf.shape, np.float32) + np.float32(norm and not offset)

    return jax.device_put(tree.map_with_path(draw, abstract))


def segments(seed: int = 0) -> list[list[tuple[np.ndarray, np.ndarray]]]:
    """Per row, the (source, target) tokens of its segments."""
    rng = np.random.default_rng(seed)
    return [
        [
            (rng.integers(2, VOCAB, s, np.int32), rng.integers(2, VOCAB, t, np.int32))
            for s, t in zip(*row)
        ]
        for row in ROWS
    ]


def _row(pieces: Sequence[np.ndarray], length: int) -> np.ndarray:
    joined = np.concatenate(pieces)
    return np.pad(joined, (0, length - len(joined)))


def _shift(target: np.ndarray) -> np.ndarray:
    return np.concatenate([[0], target[:-1]]).astype(np.int32)


def _features(rows: Sequence[Sequence[tuple[np.ndarray, np.ndarray]]]) -> dict[str, np.ndarray]:
    """SeqIO's packed features, row by row."""
    features: dict[str, list[np.ndarray]] = {}
    for row in rows:
        for side, length, index in (("encoder", SOURCE_LENGTH, 0), ("decoder", TARGET_LENGTH, 1)):
            pieces = [pair[index] for pair in row]
            named = {
                "segment_ids": [np.full(len(p), n + 1, np.int32) for n, p in enumerate(pieces)],
                "positions": [np.arange(len(p), dtype=np.int32) for p in pieces],
            }
            if side == "encoder":
                named |= {"input_tokens": pieces}
            else:
                named |= {"target_tokens": pieces, "input_tokens": [_shift(p) for p in pieces]}
                named |= {"loss_weights": [np.ones(len(p), np.int32) for p in pieces]}
            for name, arrays in named.items():
                features.setdefault(f"{side}_{name}", []).append(_row(arrays, length))
    return {name: np.stack(arrays) for name, arrays in features.items()}


def packed_batch(seed: int = 0) -> dict[str, np.ndarray]:
    """Two rows of two segments each."""
    return _features(segments(seed))


def batch(seed: int = 0) -> dict[str, np.ndarray]:
    """The same four segments, one per row, without segment ids."""
    features = _features([[pair] for row in segments(seed) for pair in row])
    return {k: v for k, v in features.items() if not k.endswith(("segment_ids", "positions"))}


def assert_same_gradients(config: Any, changes: Mapping[str, Any], batch: Batch) -> None:
    """A weighted sum of the logits, and its gradients, are those of the changed configuration."""
    real_BL = np.asarray(batch["decoder_segment_ids"]) != 0
    weights_BLV = np.random.default_rng(0).normal(size=(*real_BL.shape, config.vocab_size))
    weights_BLV *= real_BL[..., None]

    def gradients(config: Any) -> list[jax.Array]:
        def loss(params):
            return jnp.sum(base.bind(config, params).logits(batch) * weights_BLV)

        return jax.tree.leaves(jax.jit(jax.value_and_grad(loss), compiler_options=QUICK)(values))

    values = params(config)
    pairs = zip(gradients(dataclasses.replace(config, **changes)), gradients(config))
    for got, want in pairs:
        np.testing.assert_allclose(got, want, atol=2e-4 * max(1.0, np.abs(want).max()))
