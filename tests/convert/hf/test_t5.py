"""Which T5 a config.json means, and which config.json a T5 becomes."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

from ul2tune import tree
from ul2tune.convert.hf.t5 import T5Family
from ul2tune.models import base
from ul2tune.models.layers import ACTIVATIONS
from ul2tune.models.t5 import T5Config

FAMILY = T5Family()
SMALL = {
    "model_type": "t5",
    "vocab_size": 64,
    "d_model": 8,
    "d_kv": 4,
    "d_ff": 16,
    "num_heads": 2,
    "num_layers": 2,
}


class Files:
    """Tensors with or without a head."""

    def __init__(self, **arrays: np.ndarray):
        self.arrays = {name.replace("__", "."): x for name, x in arrays.items()}

    @property
    def names(self):
        return self.arrays.keys()

    def shape(self, name: str) -> tuple[int, ...]:
        return self.arrays[name].shape

    def read(self, name: str) -> np.ndarray:
        return self.arrays[name]

    def equal(self, name: str, other: str) -> bool:
        return np.array_equal(self.arrays[name], self.arrays[other])


EMBEDDING = np.arange(12.0).reshape(4, 3)
TIED = Files(shared__weight=EMBEDDING)
COPY = Files(shared__weight=EMBEDDING, lm_head__weight=EMBEDDING.copy())
UNTIED = Files(shared__weight=EMBEDDING, lm_head__weight=EMBEDDING + 1)


def config(files: Files = TIED, **values: Any) -> T5Config:
    hf = {k: v for k, v in {**SMALL, **values}.items() if v is not None}
    return FAMILY.config_from_hf(FAMILY.observe(hf, files))


# Expected: (tied, scaled). Checked against Transformers 5.23 by tools/parity.
@pytest.mark.parametrize(
    ("files", "values", "expected"),
    [
        (TIED, {}, (True, True)),  # T5 1.0, UL2
        (COPY, {}, (True, True)),  # the same with a copy of the embedding
        (UNTIED, {"tie_word_embeddings": False}, (False, False)),  # T5 1.1
        (COPY, {"tie_word_embeddings": False}, (False, False)),
        # As Transformers 5 saves them: it claims to tie everything.
        (UNTIED, {"tie_word_embeddings": True, "scale_decoder_outputs": False}, (False, False)),
        (TIED, {"tie_word_embeddings": True, "scale_decoder_outputs": False}, (True, False)),
        (UNTIED, {"tie_word_embeddings": True, "scale_decoder_outputs": True}, (False, True)),
        (TIED, {"tie_word_embeddings": False, "scale_decoder_outputs": False}, (True, False)),
        (UNTIED, {"model_type": "mt5", "tie_word_embeddings": True}, (False, False)),
        (UNTIED, {"model_type": "mt5", "tie_word_embeddings": False}, (False, False)),
        (TIED, {"model_type": "mt5"}, (True, False)),
        (UNTIED, {"model_type": "umt5", "tie_word_embeddings": True}, (False, True)),
        (UNTIED, {"model_type": "umt5", "tie_word_embeddings": False}, (False, False)),
        (TIED, {"model_type": "umt5"}, (True, True)),
    ],
)
def test_tying_and_scaling(files: Files, values: Mapping[str, Any], expected: tuple[bool, bool]):
    found = config(files, **values)
    assert (found.tied_logits, found.scale_logits) == expected
    # What we export says the same in turn, with the same files.
    exported = FAMILY.config_to_hf(found, {**SMALL, **values})
    assert FAMILY.config_from_hf(FAMILY.observe(exported, files)) == found


def test_a_head_that_the_config_calls_for_must_be_there():
    found = config(TIED, tie_word_embeddings=False)
    assert not found.tied_logits
    assert ("lm_head.weight",) in [leaf.names for leaf in FAMILY.leaves(found, {})]


def test_version_1_1_keeps_what_every_transformers_understands():
    exported = FAMILY.config_to_hf(T5Config(**_sizes()), {})
    assert exported["tie_word_embeddings"] is False
    assert exported["scale_decoder_outputs"] is False
    assert exported["feed_forward_proj"] == "gated-gelu"
    assert exported["model_type"] == "t5"


def _sizes() -> dict[str, Any]:
    return {
        "vocab_size": 64,
        "d_model": 8,
        "d_kv": 4,
        "d_ff": 16,
        "num_heads": 2,
        "num_encoder_layers": 3,
        "num_decoder_layers": 1,
    }


@pytest.mark.parametrize("activation", sorted(ACTIVATIONS))
@pytest.mark.parametrize("per_layer", [False, True])
def test_every_field_survives_the_round_trip(activation: str, per_layer: bool):
    ours = T5Config(
        **_sizes(),
        activation=activation,
        per_layer_relative_bias=per_layer,
        relative_buckets=8,
        relative_max_distance=20,
        dropout_rate=0.25,
        layer_norm_eps=1e-5,
    )
    like = {"model_type": "mt5", "n_positions": 512, "task_specific_params": {"x": 1}}
    exported = FAMILY.config_to_hf(ours, like)
    assert exported["n_positions"] == 512
    assert exported["model_type"] == ("umt5" if per_layer else "mt5")
    assert FAMILY.config_from_hf(FAMILY.observe(exported, UNTIED)) == ours


def test_old_configs_without_defaults_are_read():
    hf = {k: v for k, v in SMALL.items() if k != "d_kv"}
    found = FAMILY.config_from_hf({**hf, "num_decoder_layers": None, "n_positions": 512})
    assert (found.d_kv, found.num_decoder_layers, found.activation) == (64, 2, "relu")
    assert config(model_type="mt5").activation == "gelu_gated"


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("model_type", "longt5"),
        ("d_model", 0),
        ("d_model", -8),
        ("d_model", 8.0),
        ("d_model", "8"),
        ("d_model", True),
        ("num_layers", None),
        ("vocab_size", None),
        ("num_decoder_layers", 0),
        ("feed_forward_proj", "gelu"),  # the exact one
        ("feed_forward_proj", "gated-relu"),
        ("feed_forward_proj", "twice-gelu_new"),
        ("feed_forward_proj", 3),
        ("dense_act_fn", "tanh"),
        ("is_gated_act", "yes"),
        ("tie_word_embeddings", "false"),
        ("scale_decoder_outputs", 0),
        ("is_encoder_decoder", False),
        ("is_decoder", True),
        ("pad_token_id", 5),
        ("eos_token_id", [1, 2]),
        ("decoder_start_token_id", 3),
        ("dropout_rate", "0.1"),
        ("dropout_rate", 10**400),
        ("relative_attention_num_buckets", 31),
        ("relative_attention_max_distance", 4),
    ],
)
def test_what_cannot_be_represented_names_field_and_value(field: str, value: Any):
    with pytest.raises(ValueError, match=r"\w") as caught:
        config(**{field: value})
    shown = {
        "dense_act_fn": "feed_forward_proj",
        "is_gated_act": "is_gated_act",
        "relative_attention_num_buckets": "relative_buckets",
        "relative_attention_max_distance": "relative_max_distance",
    }
    assert shown.get(field, field) in str(caught.value)


@pytest.mark.parametrize("untied", [False, True])
@pytest.mark.parametrize("per_layer", [False, True])
@pytest.mark.parametrize("activation", ["relu", "gelu_gated"])
def test_the_table_names_every_parameter_once_and_inverts_exactly(untied, per_layer, activation):
    ours = T5Config(
        **_sizes(),
        activation=activation,
        tied_logits=not untied,
        per_layer_relative_bias=per_layer,
    )
    leaves = FAMILY.leaves(ours, {})
    shapes = tree.flatten(base.abstract_params(ours))
    assert sorted(leaf.path for leaf in leaves) == sorted(shapes)
    names = [name for leaf in leaves for name in (*leaf.names, *leaf.aliases)]
    assert len(set(names)) == len(names)
    rng = np.random.default_rng(0)
    for leaf in leaves:
        shape = shapes[leaf.path].shape
        assert not leaf.stacked or len(leaf.names) == shape[0]
        x = rng.standard_normal(shape[1:] if leaf.stacked else shape)
        np.testing.assert_array_equal(leaf.to_ours(leaf.to_theirs(x)), x)


def test_a_umt5_that_ties_logits_without_scaling_them_is_not_exported():
    sizes = {**_sizes(), "per_layer_relative_bias": True}
    with pytest.raises(ValueError, match=r"scale_logits = False .* umT5 that ties .* scales"):
        FAMILY.config_to_hf(T5Config(**sizes, tied_logits=True, scale_logits=False), {})
    for tied, scaled, files in ((True, True, TIED), (False, True, UNTIED), (False, False, UNTIED)):
        ours = T5Config(**sizes, tied_logits=tied, scale_logits=scaled)
        exported = FAMILY.config_to_hf(ours, {})
        found = FAMILY.config_from_hf(FAMILY.observe(exported, files))
        assert (found.tied_logits, found.scale_logits) == (tied, scaled)


def test_a_config_that_moves_to_umt5_or_back_is_said_differently(caplog):
    umt5 = T5Config(**_sizes(), per_layer_relative_bias=True)
    assert FAMILY.config_to_hf(umt5, {"model_type": "t5"})["model_type"] == "umt5"
    assert "Transformers 5 scales" in caplog.text
    plain = dataclasses.replace(umt5, per_layer_relative_bias=False)
    assert FAMILY.config_to_hf(plain, {"model_type": "umt5"})["model_type"] == "t5"
