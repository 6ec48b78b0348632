"""The smallest decoder-only models and batches that show everything."""

from __future__ import annotations

from typing import Any

import numpy as np

from ul2tune.data import convert, packing
from ul2tune.data.ragged import Ragged
from ul2tune.models.decoder import DecoderConfig
from ul2tune.models.rotary import Rope

VOCAB = 32
LENGTH = 12
# (inputs, targets) of the documents of each row.
ROWS = (((4, 3), (2, 2)), ((3, 6),))
SIZES: dict[str, Any] = {
    "vocab_size": VOCAB,
    "d_model": 16,
    "num_layers": 3,
    "num_heads": 4,
    "num_kv_heads": 2,
    "head_dim": 8,
    "d_ff": 24,
    "max_length": 64,
    "dtype": "float32",
}


def gemma(**changes: Any) -> DecoderConfig:
    """Everything Gemma 2 and 3 have: two rotations, windows, caps, both norms."""
    values: dict[str, Any] = {
        "activation": "gelu_gated",
        "norm": "rms_offset",
        "norm_order": "sandwich",
        "qk_norm": True,
        "rope": Rope(theta=1000.0, scaling="linear", factor=2.0),
        "local_rope": Rope(theta=10.0),
        "query_scalar": 12.0,
        "attention_softcap": 2.0,
        "logit_softcap": 5.0,
        "attention_pattern": "LG",
        "sliding_window": 3,
        "scale_embeddings": True,
        "tied_logits": True,
    }
    return DecoderConfig(**(SIZES | values | changes))


def opt(**changes: Any) -> DecoderConfig:
    """OPT 350M: learned positions, biases, projected embeddings, norms behind the branches."""
    values: dict[str, Any] = {
        "num_kv_heads": 4,
        "activation": "relu",
        "norm": "layer",
        "norm_order": "post",
        "final_norm": False,
        "attention_bias": True,
        "attention_out_bias": True,
        "mlp_bias": True,
        "learned_positions": True,
        "embedding_dim": 12,
        "tied_logits": True,
    }
    return DecoderConfig(**(SIZES | values | changes))


def t5(**changes: Any) -> DecoderConfig:
    """T5's decoder without an encoder: a relative position bias, nothing divides its logits."""
    values: dict[str, Any] = {
        "num_kv_heads": 4,
        "activation": "gelu_gated",
        "relative_buckets": 8,
        "relative_max_distance": 10,
        "query_scalar": 1.0,
        "tied_logits": True,
        "scale_logits": True,
    }
    return DecoderConfig(**(SIZES | values | changes))


def documents(seed: int = 0) -> list[list[Any]]:
    """Per row, the (inputs, targets) of its documents."""
    rng = np.random.default_rng(seed)
    return [
        [tuple(rng.integers(2, VOCAB, n, np.int32) for n in sizes) for sizes in row] for row in ROWS
    ]


def features(layout: str, rows: list[list[Any]], *, packed: bool) -> dict[str, np.ndarray]:
    """What the feed makes of documents."""
    pairs = [pair for row in rows for pair in row]
    segments = convert.Segments(
        inputs=Ragged.from_rows([inputs for inputs, _ in pairs]),
        targets=Ragged.from_rows([targets for _, targets in pairs]),
        placement=packing.place(np.repeat(np.arange(len(rows)), list(map(len, rows))), len(rows)),
        packed=packed,
    )
    return {"prefix_lm": convert.prefix_lm, "causal_lm": convert.causal_lm}[layout](
        segments, LENGTH
    )


def packed_batch(layout: str = "prefix_lm", seed: int = 0) -> dict[str, np.ndarray]:
    """Two rows, one of two documents."""
    return features(layout, documents(seed), packed=True)


def batch(layout: str = "prefix_lm", seed: int = 0) -> dict[str, np.ndarray]:
    """The same documents, one per row, without segment ids."""
    rows = [[pair] for row in documents(seed) for pair in row]
    return features(layout, rows, packed=False)
