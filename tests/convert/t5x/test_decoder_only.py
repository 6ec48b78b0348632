"""T5X's decoder-only example: its names, what is inferred, what neither side has."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest

from tests.convert import t5x_examples as examples
from tests.models import decoder_examples as tiny
from ul2tune.convert.hf.decoder import DecoderFamily
from ul2tune.convert.t5x import decoder_only, gin_file, legacy
from ul2tune.convert.t5x import models as t5x
from ul2tune.convert.t5x.models import Export
from ul2tune.convert.t5x.names import PLAIN
from ul2tune.models.decoder import DecoderConfig


def export(folder, config: DecoderConfig, step: int = 5, **changes: Any) -> str:
    """Writes it as T5X would, with other arrays in some places, or none where they are None."""
    params, leaves = examples.flat_params(config), {}
    for name, array in Export(config=config, step=step).leaves(params.__getitem__):
        leaves[name] = array
    leaves = {name: array for name, array in {**leaves, **changes}.items() if array is not None}
    return legacy.write(str(folder), step, list(leaves.items()))


def test_names_and_shapes_are_those_of_t5x():
    """As T5X's module lists them for a vocabulary of 24, 3 heads of 4, width 8, one layer."""
    layer = "decoder/layers_0"
    expected = {
        "decoder/token_embedder/embedding": (24, 8),
        "decoder/relpos_bias/rel_embedding": (3, 32),
        "decoder/decoder_norm/scale": (8,),
        "decoder/logits_dense/kernel": (8, 24),
        f"{layer}/pre_self_attention_layer_norm/scale": (8,),
        **{f"{layer}/self_attention/{n}/kernel": (8, 12) for n in ("query", "key", "value")},
        f"{layer}/self_attention/out/kernel": (12, 8),
        f"{layer}/pre_mlp_layer_norm/scale": (8,),
        f"{layer}/mlp/wi_0/kernel": (8, 12),
        f"{layer}/mlp/wi_1/kernel": (8, 12),
        f"{layer}/mlp/wo/kernel": (12, 8),
    }
    config = examples.decoder_only(num_layers=1, tied_logits=False, scale_logits=False)
    table = decoder_only.weights(config, PLAIN)
    assert {name: weight.their_shape for weight in table for name in weight.names} == expected


@pytest.mark.parametrize("name", ["DECODER_ONLY", "UNTIED"])
def test_what_shapes_do_not_show_is_as_in_t5x(tmp_path, name):
    config = getattr(examples, name)
    source = t5x.open_model(export(tmp_path, config), {"dtype": "float32"})
    assert source.config == config
    assert source.notes == (f"activation {config.activation!r} is assumed: shapes do not show it",)


def test_its_gin_file_is_understood(tmp_path):
    settings = "network.TransformerConfig:\n  dropout_rate = %DROPOUT_RATE\n  %s\n"
    activations = "mlp_activations = ('swish', 'linear')"
    text = "DROPOUT_RATE = 0.1\n" + settings.replace("%s", activations)
    assert gin_file.parse(text, "x") == {"activation": "silu_gated", "dropout_rate": 0.1}
    (tmp_path / "config.gin").write_text(text)
    config = t5x.open_model(export(tmp_path, examples.DECODER_ONLY)).config
    assert (config.activation, config.dropout_rate) == ("silu_gated", 0.1)


def test_the_exported_gin_file_is_for_its_classes():
    text = gin_file.text(examples.decoder_only(activation="silu_gated"), scanned=False)
    for line in (
        "from t5x.examples.decoder_only import network",
        "MODEL = @models.DecoderOnlyModel()",
        "  vocabulary = %VOCABULARY",
        "network.DecoderWrapper.config = @network.TransformerConfig()",
        "  num_layers = 2",
        "  head_dim = 4",
        "  mlp_activations = ('swish', 'linear')",
        "  logits_via_embedding = True",
    ):
        assert line in text.splitlines()


LAYER = "target/decoder/layers_1"


@pytest.mark.parametrize(
    ("changes", "told", "message"),
    [
        ({f"{LAYER}/mlp/wo/kernel": None}, {}, "lacks.*layers_1/mlp/wo.*a decoder-only T5 with"),
        ({"target/decoder/decoder_norm/scale": None}, {}, "lacks.*decoder_norm"),
        ({f"{LAYER}/extra/kernel": np.ones(3, np.float32)}, {}, "has no use for"),
        ({f"{LAYER}/mlp/wo/kernel": np.ones((12, 9), np.float32)}, {}, r"\(12, 9\)"),
        ({f"{LAYER}/q_wi_fused/kernel": np.ones(1, np.float32)}, {}, "fused"),
        (
            {"target/decoder/relpos_bias/rel_embedding": None},
            {},
            "no encoder and no 'decoder/relpos_bias/rel_embedding'.* neither a T5 nor T5X's",
        ),
        (
            {"target/decoder/relpos_bias/rel_embedding": np.ones((5, 32), np.float32)},
            {},
            r"\[8, 12\] do not divide into 5 heads",
        ),
        (
            {"target/decoder/relpos_bias/rel_embedding": np.ones(3, np.float32)},
            {},
            r"rel_embedding' has the shape \(3,\), not of rank",
        ),
        ({}, {"d_kv": 4}, "DecoderConfig has no field 'd_kv'"),
        ({}, {"num_layers": 3}, "lacks.*layers_2"),
    ],
)
def test_another_model_is_refused(tmp_path, changes, told, message):
    path = export(tmp_path, examples.DECODER_ONLY, **changes)
    with pytest.raises(ValueError, match=message):
        t5x.open_model(path, told)


@pytest.mark.parametrize(
    ("config", "layout", "message"),
    [
        (tiny.gemma(), "plain", "no decoder-only model without T5's relative position bias"),
        (examples.decoder_only(qk_norm=True), "plain", "no qk_norm = True"),
        (examples.decoder_only(scale_logits=False), "plain", "no scale_logits = False"),
        (examples.decoder_only(query_scalar=None), "plain", "no query_scalar = None"),
        (examples.decoder_only(num_kv_heads=1), "plain", "no num_kv_heads = 1"),
        (
            examples.decoder_only(relative_max_distance=99), "plain",
            "no relative_max_distance = 99",
        ),
        (examples.DECODER_ONLY, "scanned", "no layout 'scanned' of a decoder-only model"),
    ],
)  # fmt: skip
def test_what_t5x_does_not_have_is_not_exported(config, layout, message):
    with pytest.raises(ValueError, match=message):
        Export(config=config, step=1, layout=layout)


def test_every_field_of_the_model_is_checked_before_export():
    """One that is neither shape, nor fixed, nor free would be lost on the way."""
    shapes = {
        "vocab_size", "d_model", "num_layers", "num_heads", "num_kv_heads", "head_dim", "d_ff",
        "relative_buckets", "tied_logits", "scale_logits",
    }  # fmt: skip
    # Excluded by relative_buckets, or by the lack of a window.
    implied = {"rope", "local_rope", "learned_positions", "attention_pattern"}
    told = {"activation", "dropout_rate", "attention_dropout_rate", "dtype", "max_length"}
    how = {"remat", "scan_layers", "attention", "attention_chunk_tokens"}
    known = shapes | implied | told | how | set(decoder_only.FIXED)
    assert known == {field.name for field in dataclasses.fields(DecoderConfig)}


def test_transformers_has_no_such_model():
    with pytest.raises(ValueError, match=r"no decoder-only .*relative_buckets = 32.*export t5x"):
        DecoderFamily().config_to_hf(examples.DECODER_ONLY, {})
