"""The smallest T5Gemmas that show everything; their batches are those of `examples`."""

from __future__ import annotations

import dataclasses
from typing import Any

from tests.models import examples
from ul2tune.models.rotary import Rope
from ul2tune.models.t5gemma import StackConfig, T5GemmaConfig

ENCODER = StackConfig(
    d_model=16,
    num_layers=2,
    num_heads=4,
    num_kv_heads=2,
    head_dim=8,
    d_ff=24,
    max_length=64,
    rope=Rope(theta=1000.0),
    query_scalar=12.0,
    attention_softcap=2.0,
    attention_pattern="LG",
    sliding_window=3,
)


def first(**changes: Any) -> T5GemmaConfig:
    """T5Gemma: two sizes, cross-attention, caps."""
    decoder = dataclasses.replace(ENCODER, d_model=8, num_kv_heads=4, head_dim=4)
    values: dict[str, Any] = {
        "vocab_size": examples.VOCAB,
        "encoder": ENCODER,
        "decoder": decoder,
        "logit_softcap": 5.0,
        "dtype": "float32",
    }
    return T5GemmaConfig(**(values | changes))


def second(**changes: Any) -> T5GemmaConfig:
    """T5Gemma 2: merged attention, norms of queries and keys, two rotations, one table."""
    decoder = dataclasses.replace(ENCODER, attention_softcap=None, local_rope=Rope(theta=10.0))
    values: dict[str, Any] = {
        "vocab_size": examples.VOCAB,
        "encoder": dataclasses.replace(decoder, sliding_window=2, right_window=3),
        "decoder": decoder,
        "merged_attention": True,
        "qk_norm": True,
        "tied_embeddings": True,
        "eoi_id": 17,  # is in the batches
        "dtype": "float32",
    }
    return T5GemmaConfig(**(values | changes))
