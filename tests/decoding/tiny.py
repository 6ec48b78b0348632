"""A tiny T5 with random parameters."""

from __future__ import annotations

from tests.models import examples
from ul2tune.models.t5 import T5Config

# 259 ids of the plain byte vocabulary, padded to a multiple of 8.
MODEL = T5Config(
    vocab_size=264,
    d_model=16,
    d_kv=8,
    d_ff=32,
    num_heads=4,
    num_encoder_layers=1,
    num_decoder_layers=2,
    dtype="float32",
)


def params(seed: int = 0):
    return examples.params(MODEL, seed)
