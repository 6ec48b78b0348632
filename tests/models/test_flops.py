from __future__ import annotations

from types import SimpleNamespace

import pytest

from ul2tune.models import flops
from ul2tune.models.decoder import DecoderConfig
from ul2tune.models.rotary import Rope
from ul2tune.models.t5 import T5Config
from ul2tune.models.t5gemma import StackConfig, T5GemmaConfig


def t5_1_1_base(**changes) -> T5Config:
    return T5Config(
        **{
            "vocab_size": 32128,
            "d_model": 768,
            "d_kv": 64,
            "d_ff": 2048,
            "num_heads": 12,
            "num_encoder_layers": 12,
            "num_decoder_layers": 12,
            **changes,
        }
    )


def test_one_layer_by_hand():
    # d = a = 4, f = 8, V = 16, 3 inputs, 2 targets, gated. Products of [m, k] and [k, n]: 2 m k n.
    config = t5_1_1_base(
        vocab_size=16,
        d_model=4,
        d_kv=2,
        num_heads=2,
        d_ff=8,
        num_encoder_layers=1,
        num_decoder_layers=1,
    )
    encoder = 4 * (2 * 3 * 4 * 4)  # query, key, value, out
    encoder += 2 * (2 * 3 * 3 * 4)  # logits and weighted values of all heads
    encoder += 3 * (2 * 3 * 4 * 8)  # wi_0, wi_1, wo
    decoder = 6 * (2 * 2 * 4 * 4)  # four of the self-attention, two of the cross-attention
    decoder += 2 * (2 * 3 * 4 * 4)  # key and value of the source
    decoder += 2 * (2 * 2 * 2 * 4) + 2 * (2 * 2 * 3 * 4)
    decoder += 3 * (2 * 2 * 4 * 8)
    logits = 2 * 2 * 4 * 16
    assert flops.train_flops_per_row(config, 3, 2) == 3 * (encoder + decoder + logits)


@pytest.mark.parametrize(
    ("inputs", "targets", "gigaflops"), [(512, 114, 426), (512, 128, 438), (512, 512, 772)]
)
def test_t5_base(inputs, targets, gigaflops):
    assert round(flops.train_flops_per_row(t5_1_1_base(), inputs, targets) / 1e9) == gigaflops


def test_plain_feed_forward_counts_two_products():
    gated = flops.train_flops_per_row(t5_1_1_base(), 512, 0)
    plain = flops.train_flops_per_row(t5_1_1_base(activation="relu"), 512, 0)
    assert gated - plain == 3 * 12 * 512 * 2 * 768 * 2048


def test_t5gemma_of_t5s_shape_costs_as_much():
    stack = StackConfig(
        d_model=768,
        num_layers=12,
        num_heads=12,
        num_kv_heads=12,
        head_dim=64,
        d_ff=2048,
        max_length=512,
        rope=Rope(),
        attention_pattern="G",
    )
    config = T5GemmaConfig(vocab_size=32128, encoder=stack, decoder=stack)
    expected = flops.train_flops_per_row(t5_1_1_base(), 512, 114)
    assert flops.train_flops_per_row(config, 512, 114) == expected
    # Merged attention saves the cross-attention's products of queries and outputs.
    merged = T5GemmaConfig(vocab_size=32128, encoder=stack, decoder=stack, merged_attention=True)
    saved = expected - flops.train_flops_per_row(merged, 512, 114)
    assert saved == 3 * 12 * 2 * (2 * 114 * 768 * 768)


@pytest.mark.parametrize(
    ("kind", "peak"),
    [
        ("NVIDIA H100 80GB HBM3", 989e12),
        ("NVIDIA H100 PCIe", 756e12),
        ("NVIDIA A100-SXM4-80GB", 312e12),
        ("NVIDIA L4", 121e12),
        ("NVIDIA L40", 181e12),
        ("NVIDIA L40S", 362e12),
        ("TPU v5 lite", 197e12),
        ("TPU v5", 459e12),
        ("TPU v6 lite", 918e12),
        ("TPU7x", 2307e12 / 2),  # a device is one of a chip's two cores
        ("cpu", None),
    ],
)
def test_peaks(kind, peak):
    assert flops.peak_flops(SimpleNamespace(device_kind=kind)) == peak


def test_no_name_hides_another():
    for name in flops.PEAK_FLOPS:
        assert next(found for found in flops.PEAK_FLOPS if found in name) == name


def decoder(**changes) -> DecoderConfig:
    values = {
        "vocab_size": 32000,
        "d_model": 4096,
        "num_layers": 32,
        "num_heads": 32,
        "num_kv_heads": 32,
        "head_dim": 128,
        "d_ff": 11008,
        "max_length": 4096,
        "rope": Rope(),
    }
    return DecoderConfig(**(values | changes))


def test_decoder_only_is_six_flops_per_parameter_and_attention():
    # Llama 2 7B (6.74 G parameters, of which the embedding makes no product), rows of 4096.
    length, kernels = 4096, 6.738e9 - 32000 * 4096
    expected = length * (6 * kernels + 12 * 32 * 4096 * length)
    got = flops.train_flops_per_row(decoder(), 3072, 1024)
    assert got == pytest.approx(expected, rel=1e-3)


def test_relative_positions_are_no_products():
    t5 = decoder(rope=None, relative_buckets=32, relative_max_distance=128, query_scalar=1.0)
    rotated = flops.train_flops_per_row(decoder(), 512, 512)
    assert flops.train_flops_per_row(t5, 512, 512) == rotated


def test_windows_and_shared_heads_save_what_they_save():
    length = 4096
    full = flops.train_flops_per_row(decoder(), 0, length)
    local = decoder(attention_pattern="LG", sliding_window=1024)
    saved = 16 * 12 * 4096 * length * (4096 - 1024)
    assert full - flops.train_flops_per_row(local, 0, length) == saved
    shared = decoder(num_kv_heads=8)
    saved = 32 * 12 * length * 4096 * (4096 - 1024)
    assert full - flops.train_flops_per_row(shared, 0, length) == saved
    projected = decoder(embedding_dim=512)
    logits = 6 * length * 32000 * (4096 - 512) - 12 * length * 4096 * 512
    assert full - flops.train_flops_per_row(projected, 0, length) == logits
