"""How many floating-point operations a training step is worth, and how many a device could do.

Analytic: XLA's own count sees the body of a scanned layer once.
"""

from __future__ import annotations

from typing import Any

from ul2tune.models.base import ModelConfig
from ul2tune.models.decoder import DecoderConfig
from ul2tune.models.layers import ACTIVATIONS
from ul2tune.models.t5 import T5Config
from ul2tune.models.t5gemma import T5GemmaConfig

# Part of `device_kind`, in lower case -> dense bfloat16 FLOP/s of one JAX device (a chip; of TPU v3
# and TPU7x one of its two cores), from the vendors' data sheets. The first match counts, so a name
# comes before those that it contains; "h200" is GH200's too.
PEAK_FLOPS = {
    "h100 pcie": 756e12,
    "h100": 989e12,
    "h200": 989e12,
    "gb200": 2500e12,
    "b200": 2250e12,
    "a100": 312e12,
    "l40s": 362e12,
    "l40": 181e12,
    "l4": 121e12,
    "tpu7": 1153.5e12,
    "tpu v6": 918e12,
    "tpu v5p": 459e12,
    "tpu v5 lite": 197e12,
    "tpu v5e": 197e12,
    "tpu v5": 459e12,
    "tpu v4": 275e12,
    "tpu v3": 61.5e12,
}


def train_flops_per_row(config: ModelConfig, inputs_length: int, targets_length: int) -> float:
    """Returns the FLOPs of forward and backward pass for one row of a batch.

    Only products of matrices are counted, a multiply and an add as two, the backward pass as twice
    the forward pass, recomputation (`remat`) not at all. With a = heads x head size, k = key/value
    heads x head size, FF = 6 d f (gated) or 4 d f, w = min(L, sliding window of the layer), e =
    size of token embeddings, per layer::

        encoder        S (8 d a + FF + 4 S a)
        decoder        L (12 d a + FF + 4 L a + 4 S a) + S 4 d a
        decoder-only   L (4 d a + 4 d k + FF + 4 w a), where L is inputs and targets together
        logits         2 e V L  (+ 4 d e L where embeddings are projected)
        T5Gemma        both stacks as decoder-only of their length, and for each layer of the
                       decoder 4 S L a + S 4 D k, of an encoder D wide, + L 4 d a unless merged

    Causal attention counts in full, as in PaLM's definition of MFU (arXiv:2204.02311, appendix B).
    """
    if isinstance(config, DecoderConfig):
        return 3.0 * _decoder_only(config, inputs_length + targets_length)
    if isinstance(config, T5GemmaConfig):
        return 3.0 * _t5gemma(config, inputs_length, targets_length)
    assert isinstance(config, T5Config), config
    d, attended = config.d_model, config.num_heads * config.d_kv
    feed_forward = _feed_forward(config)
    source, target = inputs_length, targets_length
    encoder_layer = source * (8 * d * attended + feed_forward + 4 * source * attended)
    decoder_layer = target * (
        12 * d * attended + feed_forward + 4 * target * attended + 4 * source * attended
    )
    decoder_layer += source * 4 * d * attended  # keys and values of the cross-attention
    logits = 2 * d * config.vocab_size * target
    forward = (
        config.num_encoder_layers * encoder_layer
        + config.num_decoder_layers * decoder_layer
        + logits
    )
    return 3.0 * forward


def _feed_forward(config: T5Config | DecoderConfig) -> int:
    """Per token."""
    kernels = 6 if ACTIVATIONS[config.activation][1] else 4
    return kernels * config.d_model * config.d_ff


def _decoder_only(config: DecoderConfig, length: int) -> float:
    """The forward pass of one row."""
    d, head_dim = config.d_model, config.head_dim
    attended, shared = config.num_heads * head_dim, config.num_kv_heads * head_dim
    windows = (min(length, config.sliding_window or length), length)
    seen = sum(windows[0] if is_local else windows[1] for is_local in config.is_local)
    per_token = config.num_layers * (4 * d * attended + 4 * d * shared + _feed_forward(config))
    per_token += 4 * seen * attended + 2 * (config.embedding_dim or d) * config.vocab_size
    if config.embedding_dim is not None:
        per_token += 4 * d * config.embedding_dim
    return length * per_token


def _t5gemma(config: T5GemmaConfig, source: int, target: int) -> float:
    """The forward pass of one row."""
    encoder, decoder = config.gemma("encoder"), config.gemma("decoder")
    d, head_dim = decoder.d_model, decoder.head_dim
    attended, shared = decoder.num_heads * head_dim, decoder.num_kv_heads * head_dim
    read = 4 * source * target * attended + source * 4 * encoder.d_model * shared
    if not config.merged_attention:
        read += target * 4 * d * attended  # queries and output of the cross-attention
    no_logits = 2 * encoder.d_model * config.vocab_size * source
    return (
        _decoder_only(encoder, source)
        - no_logits
        + _decoder_only(decoder, target)
        + decoder.num_layers * read
    )


def peak_flops(device: Any) -> float | None:
    """Returns the bfloat16 peak of a device in FLOP/s, or None where the table does not know it."""
    kind = device.device_kind.lower()
    return next((peak for name, peak in PEAK_FLOPS.items() if name in kind), None)
