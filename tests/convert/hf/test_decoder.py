"""What config.json of decoder-only models means, and what cannot be said."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest

from tests.convert import models
from tests.models import decoder_examples as tiny
from ul2tune import tree
from ul2tune.convert.hf import models as hf
from ul2tune.convert.hf.decoder import DecoderFamily
from ul2tune.convert.mapping import matches
from ul2tune.models import base
from ul2tune.models.decoder import DecoderConfig
from ul2tune.models.rotary import Rope

FAMILY = DecoderFamily()
SHAPE: dict[str, Any] = {
    "vocab_size": 64,
    "hidden_size": 16,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "max_position_embeddings": 128,
}
ROTARY = {**SHAPE, "num_key_value_heads": 2, "intermediate_size": 24, "bos_token_id": 2}
FILES: dict[str, dict[str, Any]] = {
    "opt": {**SHAPE, "model_type": "opt", "ffn_dim": 24},
    "llama": {**ROTARY, "model_type": "llama"},
    "qwen2": {**ROTARY, "model_type": "qwen2"},
    "qwen3": {**ROTARY, "model_type": "qwen3"},
    "gemma2": {**ROTARY, "model_type": "gemma2"},
    "gemma3_text": {**ROTARY, "model_type": "gemma3_text"},
}
LOCALS = ["sliding_attention"] * 4
LLAMA3 = {
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}


def read(kind: str, **changes: Any) -> DecoderConfig:
    return FAMILY.config_from_hf({**FILES[kind], **changes})


def test_defaults_are_those_of_transformers():
    opt = read("opt")
    assert (opt.learned_positions, opt.mlp_bias, opt.tied_logits) == (True, True, True)
    assert (opt.norm_order, opt.final_norm, opt.norm_eps, opt.head_dim) == ("pre", True, 1e-5, 4)
    assert read("llama").rope == Rope(theta=10000.0)
    assert not read("llama").tied_logits
    qwen = read("qwen2")
    assert (qwen.attention_bias, qwen.attention_out_bias) == (True, False)
    assert read("qwen3").head_dim == 128
    gemma = read("gemma2")
    assert (gemma.attention_softcap, gemma.logit_softcap, gemma.query_scalar) == (50.0, 30.0, None)
    assert (gemma.attention_pattern, gemma.sliding_window, gemma.head_dim) == ("LG", 4096, 256)
    gemma = read("gemma3_text", num_hidden_layers=7)
    assert (gemma.attention_softcap, gemma.logit_softcap) == (None, None)
    assert (gemma.rope, gemma.local_rope) == (Rope(theta=1e6), Rope(theta=1e4))
    assert gemma.attention_pattern == "LLLLLG"


def test_documents_start_with_the_token_that_transformers_would_put_first():
    """Or its default has, where published files leave it out: those of Gemma 3 with vision do."""
    found = {kind: read(kind, bos_token_id=5).start_id for kind in FILES}
    assert found == dict.fromkeys(FILES, 5)
    for kind, start in {"opt": 2, "llama": 1, "gemma2": 2, "gemma3_text": 2}.items():
        bare = {name: value for name, value in FILES[kind].items() if name != "bos_token_id"}
        assert FAMILY.config_from_hf(bare).start_id == start
    bare = {name: value for name, value in FILES["gemma3_text"].items() if name != "bos_token_id"}
    whole = {"model_type": "gemma3", "text_config": bare, "eos_token_id": [1, 106]}
    assert FAMILY.config_from_hf(whole).start_id == 2


@pytest.mark.parametrize(
    ("changes", "start", "said"),
    [
        ({"bos_token_id": None, "eos_token_id": 7}, 7, "null, which is no token of the model"),
        ({"bos_token_id": 64, "eos_token_id": [64, 9]}, 9, "64, which is no token of the model"),
        ({"bos_token_id": None}, 0, "documents start with 0 (its eos_token_id is null)."),
        ({"bos_token_id": None, "eos_token_id": 0}, 0, "start with 0 (its eos_token_id is 0)."),
    ],
)
def test_without_one_documents_start_with_what_ended_the_one_before(changes, start, said, caplog):
    """Of a Qwen that Transformers tuned, for example: 0 is "!" there."""
    theirs = {**FILES["qwen2"], **changes}
    assert FAMILY.config_from_hf(theirs).start_id == start
    assert not caplog.text  # of a configuration alone: what is exported says what it has
    files = Files(model__embed_tokens__weight=np.zeros((64, 16)))
    config = FAMILY.config_from_hf(FAMILY.observe(theirs, files))
    assert config.start_id == start
    assert said in caplog.text
    caplog.clear()
    # It goes out as what it was trained with, and comes back so.
    theirs = FAMILY.config_to_hf(config, theirs)
    assert theirs["bos_token_id"] == start
    assert FAMILY.config_from_hf(FAMILY.observe(theirs, files)) == config
    assert not caplog.text


@pytest.mark.parametrize(
    ("kind", "old", "new"),
    [
        (
            "llama",
            {"rope_theta": 5e5, "rope_scaling": {"rope_type": "llama3", **LLAMA3}},
            {"rope_parameters": {"rope_type": "llama3", "rope_theta": 5e5, **LLAMA3}},
        ),
        (
            "llama",
            {"rope_theta": 100.0, "rope_scaling": {"type": "linear", "factor": 2.0}},
            {"rope_parameters": {"rope_type": "linear", "rope_theta": 100.0, "factor": 2.0}},
        ),
        (
            "gemma3_text",
            {
                "rope_theta": 1e5,
                "rope_local_base_freq": 1e3,
                "rope_scaling": {"rope_type": "linear", "factor": 8.0},
                "sliding_window_pattern": 2,
            },
            {
                "rope_parameters": {
                    "full_attention": {"rope_type": "linear", "rope_theta": 1e5, "factor": 8.0},
                    "sliding_attention": {"rope_type": "default", "rope_theta": 1e3},
                },
                "layer_types": ["sliding_attention", "full_attention"] * 2,
            },
        ),
        (
            "qwen2",
            {"use_sliding_window": True, "max_window_layers": 2, "sliding_window": 8},
            {
                "layer_types": ["full_attention"] * 2 + ["sliding_attention"] * 2,
                "use_sliding_window": True,
                "sliding_window": 8,
            },
        ),
    ],
)
def test_old_and_new_spellings_mean_the_same(kind, old, new):
    assert read(kind, **old) == read(kind, **new)
    assert read(kind, **old) != read(kind)


def test_fields_that_transformers_does_not_read_are_not_read_either():
    for kind in ("gemma2", "gemma3_text"):
        assert read(kind, hidden_act="silu") == read(kind)
        assert read(kind, hidden_activation="silu").activation == "silu_gated"
    gemma = read("gemma3_text", num_hidden_layers=7, _sliding_window_pattern=2)
    assert gemma.attention_pattern == "LLLLLG"


@pytest.mark.parametrize("kind", FILES)
def test_what_was_read_is_written(kind):
    like = {**FILES[kind], "eos_token_id": 1, "rope_scaling": None}
    config = FAMILY.config_from_hf(like)
    written = FAMILY.config_to_hf(config, like)
    assert written["model_type"] == kind
    assert written["eos_token_id"] == 1
    assert FAMILY.config_from_hf(written) == config
    assert FAMILY.config_to_hf(config, {})["model_type"] == kind


@pytest.mark.parametrize("kind", ["gemma2", "gemma3_text"])
def test_gemma_without_a_local_layer_keeps_a_window_or_says_nothing_of_it(kind):
    """Transformers makes the mask of local layers all the same, and fails where it reads null."""
    like = {**FILES[kind], "layer_types": ["full_attention"] * 4}
    config = FAMILY.config_from_hf({**like, "sliding_window": 8})
    assert config.sliding_window is None
    for own in ({}, {"sliding_window": 8}, {"sliding_window": None}):
        written = FAMILY.config_to_hf(config, {**like, **own})
        assert ("sliding_window" in written) == (own.get("sliding_window") is not None)
        assert written.get("sliding_window", 8) == 8
        assert FAMILY.config_from_hf(written) == config


@pytest.mark.parametrize(
    ("kind", "changes", "message"),
    [
        ("llama", {"rope_scaling": {"rope_type": "yarn", "factor": 2.0}}, "rope_type 'yarn'"),
        ("llama", {"rope_parameters": {"rope_type": "linear"}}, "factor = '\\(absent\\)'"),
        ("llama", {"partial_rotary_factor": 0.5}, "partial_rotary_factor"),
        ("llama", {"rope_parameters": {"full_attention": {}}}, "a rotation in this form"),
        ("gemma3_text", {"rope_parameters": {"rope_theta": 10.0}}, "a rotation in this form"),
        ("llama", {"hidden_act": "gelu"}, "hidden_act = 'gelu'"),
        ("llama", {"layer_types": LOCALS}, "layer_types"),
        # Transformers fails: without use_sliding_window it drops sliding_window.
        ("qwen2", {"layer_types": LOCALS, "sliding_window": 8}, "use_sliding_window = '.absent"),
        ("qwen3", {"layer_types": LOCALS, "use_sliding_window": False}, "_sliding_window = False"),
        # Version 4 scales with that, version 5 does not.
        ("gemma3_text", {"rope_scaling": {"type": "linear", "factor": 8.0}}, "type without rope_t"),
        ("gemma3_text", {"attn_logit_softcapping": 50.0}, "attn_logit_softcapping = 50.0"),
        ("gemma2", {"use_bidirectional_attention": True}, "use_bidirectional_attention = True"),
        ("gemma2", {"layer_types": ["full_attention"]}, "anything but 4 of"),
        ("opt", {"layer_norm_elementwise_affine": False}, "layer_norm_elementwise_affine = False"),
        ("opt", {"activation_function": "gelu"}, "activation_function = 'gelu'"),
        ("opt", {"num_attention_heads": 3}, "num_attention_heads = 3"),
        ("llama", {"num_key_value_heads": 3}, "num_kv_heads = 3 does not divide"),
        # As many names of tensors would be made up.
        ("opt", {"num_hidden_layers": 10**6}, "num_hidden_layers = 1000000"),
        ("qwen3", {"num_hidden_layers": 10**6}, "num_hidden_layers = 1000000"),
        # Values of other types, as a stranger's file may have them.
        ("llama", {"rope_scaling": {"rope_type": []}}, r"rope_scaling = \{'rope_type': \[\]\}"),
        (
            "qwen2",
            {"max_window_layers": "2", "use_sliding_window": True},
            "max_window_layers = '2'",
        ),
        ("gemma3_text", {"layer_types": [[]] * 4}, "anything but 4 of"),
        ("gemma3_text", {"rope_parameters": {"full_attention": "x"}}, "anything but an object"),
        ("gemma3_text", {"rope_parameters": {"sliding_attention": 1}}, "anything but an object"),
    ],
)
def test_what_cannot_be_represented_is_refused(kind, changes, message):
    with pytest.raises(ValueError, match=message):
        read(kind, **changes)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (tiny.gemma(), "attention_softcap = 2.0 .* 'gemma3_text', the closest, has None"),
        (tiny.gemma(qk_norm=False), "local_rope = Rope.* 'gemma2', the closest, has None"),
        (tiny.gemma(norm="rms"), "norm_order = 'sandwich' .* 'qwen3', the closest, has 'pre'"),
        (tiny.opt(), "head_dim = 8 .* 'opt', the closest, has 4"),
        (tiny.opt(head_dim=4), "norm_eps = 1e-06"),
        (tiny.opt(head_dim=4, norm_eps=1e-5, mlp_bias=False), "mlp_bias = False"),
    ],
)
def test_what_transformers_cannot_represent_is_refused(config, message):
    with pytest.raises(ValueError, match=message):
        FAMILY.config_to_hf(config, {})


def gemma3(**changes: Any) -> DecoderConfig:
    return tiny.gemma(**{"attention_softcap": None, **changes})


@pytest.mark.parametrize(
    ("config", "plain"),
    [
        (gemma3(num_layers=3, attention_pattern="LLLLLG"), {"attention_pattern": "L"}),
        (gemma3(attention_pattern="LGLG"), {"attention_pattern": "LG"}),
        (gemma3(local_rope=None), {"local_rope": tiny.gemma().rope}),
        (gemma3(query_scalar=8.0), {"query_scalar": None}),
    ],
)
def test_what_need_not_be_said_keeps_no_model_from_transformers(config, plain):
    read_back = FAMILY.config_from_hf(FAMILY.config_to_hf(config, {}))
    # How it is computed, and dropout, are the run's.
    assert dataclasses.replace(
        read_back, dtype=config.dtype, dropout_rate=config.dropout_rate
    ) == dataclasses.replace(config, **plain)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (gemma3(d_model=18), "d_model = 18 is no multiple of num_heads = 4: .* 'gemma3_text'"),
        (gemma3(query_scalar=7.5), "query_scalar = 7.5 is no integer"),
        (read("llama", head_dim=8, hidden_size=18), "d_model = 18 is no multiple"),
    ],
)
def test_sizes_that_transformers_does_not_load_are_refused(config, message):
    with pytest.raises(ValueError, match=message):
        FAMILY.config_to_hf(config, {})
    # Qwen's configurations do not check that.
    qwen = read("qwen3", head_dim=8, hidden_size=18)
    assert FAMILY.config_to_hf(qwen, {})["hidden_size"] == 18


class Files:
    """Names and numbers of a checkpoint."""

    def __init__(self, **tensors: np.ndarray):
        self.tensors = {name.replace("__", "."): value for name, value in tensors.items()}
        self.names = self.tensors.keys()

    def shape(self, name: str) -> tuple[int, ...]:
        return self.tensors[name].shape

    def read(self, name: str) -> np.ndarray:
        return self.tensors[name]

    def equal(self, name: str, other: str) -> bool:
        return np.array_equal(self.tensors[name], self.tensors[other])


@pytest.mark.parametrize(
    ("prefix", "head"),
    [
        ("model.", "lm_head.weight"),
        ("", "lm_head.weight"),
        ("language_model.model.", "language_model.lm_head.weight"),
        ("model.language_model.", "lm_head.weight"),
    ],
)
def test_names_begin_as_in_the_files(prefix, head):
    text = {name: value for name, value in FILES["gemma3_text"].items() if name != "model_type"}
    hf = {"model_type": "gemma3", "text_config": text}
    table = np.zeros((64, 16))
    tensors = Files(**{f"{prefix}embed_tokens.weight": table, head: table})
    seen = FAMILY.observe(hf, tensors)
    config = FAMILY.config_from_hf(seen)
    assert config == read("gemma3_text")
    leaves = FAMILY.leaves(config, seen)
    assert leaves[0].names == (f"{prefix}embed_tokens.weight",)
    assert leaves[0].aliases == (head,)
    assert sorted(leaf.path for leaf in leaves) == sorted(
        tree.flatten(base.abstract_params(config))
    )
    assert FAMILY.config_to_hf(config, seen)["model_type"] == "gemma3_text"


@pytest.mark.parametrize("says", [{}, {"tie_word_embeddings": True}])
def test_the_whole_of_a_gemma3_says_whether_it_ties_not_its_text_part(says):
    table = {"model.language_model.embed_tokens.weight": np.zeros((64, 16))}
    for tied in (True, False):
        text = {**FILES["gemma3_text"], "tie_word_embeddings": tied}
        hf = {"model_type": "gemma3", "text_config": text, **says}
        assert FAMILY.config_from_hf(FAMILY.observe(hf, Files(**table))).tied_logits
        untied = FAMILY.observe({**hf, "tie_word_embeddings": False}, Files(**table))
        assert not FAMILY.config_from_hf(untied).tied_logits


def test_a_gemma3_that_caps_logits_which_transformers_does_not_cap_is_refused():
    """Gemma3ForConditionalGeneration does not read the field, Gemma3ForCausalLM does."""
    capped = {**FILES["gemma3_text"], "final_logit_softcapping": 30.0}
    whole = {"model_type": "gemma3", "text_config": capped}
    for read_it in (FAMILY.config_from_hf, lambda hf: FAMILY.observe(hf, Files())):
        with pytest.raises(ValueError, match=r"final_logit_softcapping = 30.0: in a 'gemma3'"):
            read_it(whole)
        read_it({**whole, "text_config": {**capped, "final_logit_softcapping": None}})
    config = FAMILY.config_from_hf(capped)
    assert config.logit_softcap == 30.0
    # What began as such a folder before it was refused can still be exported.
    assert FAMILY.config_to_hf(config, whole)["final_logit_softcapping"] == 30.0


def test_a_head_that_differs_is_used_whatever_config_json_says():
    tables = {"model.embed_tokens.weight": np.zeros((64, 16)), "lm_head.weight": np.ones((64, 16))}
    tensors = Files(**tables)
    seen = FAMILY.observe(FILES["gemma2"], tensors)
    assert not FAMILY.config_from_hf(seen).tied_logits


def test_a_head_of_another_dtype_is_a_head_of_its_own(tmp_path):
    """One parameter has one tensor; bit-equal copies of it alone are left out."""
    folder = models.copy(models.GOLDENS / "decoder" / "llama3" / "model", tmp_path / "model")
    arrays = models.tensors(folder)
    half = arrays["model.embed_tokens.weight"].astype(np.float16)
    for head, tied in ((half.astype(np.float32), True), (half, False)):
        embedding = {"model.embed_tokens.weight": half.astype(np.float32)}
        models.write(folder, {**arrays, **embedding, "lm_head.weight": head})
        source = hf.open_model(folder)
        assert source.config.tied_logits is tied
        found = {path: next(layers) for path, _, layers in source.arrays()}
        assert ("head" in found) is not tied
        np.testing.assert_array_equal(found.get("head", half), found["token_embedding"])


def test_what_sees_images_is_a_part_by_itself():
    for name in ("vision_tower.vision_model.head.weight", "model.multi_modal_projector.norm"):
        assert matches(name, FAMILY.parts)
        assert not matches(name, FAMILY.ignored)
    assert not matches("model.language_model.embed_tokens.weight", FAMILY.parts)
