"""T5Gemma in Transformers' format: what is refused, and what is read in more than one spelling.

That imported models answer alike is in test_goldens.py.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.convert import models
from ul2tune.convert.hf import folder as hf_folder
from ul2tune.convert.hf import models as hf
from ul2tune.convert.hf.t5gemma import T5GemmaFamily
from ul2tune.models.rotary import Rope

ONE, TWO = (models.GOLDENS / "t5gemma" / name / "model" for name in ("t5gemma", "t5gemma2"))
FAMILY = T5GemmaFamily()


def config_of(folder: Path) -> Any:
    return hf.open_model(folder, text_only=True).config


def config_json(folder):
    return json.loads((folder / hf_folder.CONFIG).read_text())


def test_windows_are_those_of_transformers():
    one, two = config_of(ONE), config_of(TWO)
    # sliding_window = 3: up to 3 away on both sides; 3 tokens in all; 3 tokens of the past.
    assert (one.encoder.sliding_window, one.encoder.right_window) == (4, None)
    assert (two.encoder.sliding_window, two.encoder.right_window) == (2, None)
    assert one.decoder.sliding_window == two.decoder.sliding_window == 3
    even = config_json(TWO)
    even["encoder"]["text_config"]["sliding_window"] = 512
    encoder = FAMILY.config_from_hf(even).encoder
    assert (encoder.sliding_window, encoder.right_window) == (256, 257)


def test_what_sees_images_is_left_behind_only_when_told():
    with pytest.raises(ValueError, match=r"model\.encoder\.\S+' of a part .* --text_only"):
        hf.open_model(TWO)
    names = {name for leaf in hf.open_model(TWO, text_only=True).leaves for name in leaf.names}
    assert not any("vision" in name for name in names)


def test_names_of_modules_are_read_too(tmp_path):
    """Files hold "encoder.layers"; in memory, and in some files, it is "encoder.text_model"."""
    folder = models.copy(TWO, tmp_path / "model")
    arrays = models.tensors(folder)

    def spelled(name: str) -> str:
        if any(part in name for part in ("vision_tower", "multi_modal")):
            return name
        return name.replace("model.encoder.", "model.encoder.text_model.")

    models.write(folder, {spelled(name): value for name, value in arrays.items()})
    old, new = hf.open_model(TWO, text_only=True), hf.open_model(folder, text_only=True)
    assert new.config == old.config
    for (_, _, left), (_, _, right) in zip(old.arrays(), new.arrays()):
        for a, b in zip(left, right):
            np.testing.assert_array_equal(a, b)


def test_a_head_that_differs_is_a_head(tmp_path):
    folder = models.copy(ONE, tmp_path / "model")
    arrays = models.tensors(folder)
    table = arrays["model.decoder.embed_tokens.weight"]
    models.write(folder, {**arrays, "lm_head.out_proj.weight": table.copy()})
    assert config_of(folder).tied_logits
    models.write(folder, {**arrays, "lm_head.out_proj.weight": table + 1})
    assert not config_of(folder).tied_logits


@pytest.mark.parametrize(
    ("folder", "part", "changes", "message"),
    [
        (ONE, (), {"is_encoder_decoder": False}, "is_encoder_decoder = False"),
        (ONE, (), {"decoder": None}, "decoder = None"),
        (ONE, ("encoder",), {"vocab_size": 40}, "vocab_size = 40"),
        (ONE, ("decoder",), {"bos_token_id": None}, "bos_token_id = None"),
        (ONE, ("decoder",), {"hidden_activation": "mish"}, "hidden_activation = 'mish'"),
        (ONE, ("encoder",), {"num_hidden_layers": 10**6}, "num_hidden_layers = 1000000"),
        (ONE, ("decoder",), {"head_dim": [8]}, r"head_dim = \[8\]"),
        (TWO, ("encoder",), {"eoi_token_index": None}, "eoi_token_index = None"),
        (TWO, ("encoder",), {"text_config": []}, r"text_config = \[\]"),
        (TWO, ("decoder",), {"hidden_size": 24}, "merged_attention needs"),
    ],
)
def test_what_cannot_be_represented_is_refused(folder, part, changes, message):
    config = config_json(folder)
    inner = config
    for name in part:
        inner = inner[name]
    inner.update(changes)
    with pytest.raises(ValueError, match=message):
        FAMILY.config_from_hf(config)


@pytest.mark.parametrize(
    ("folder", "changes", "message"),
    [
        (ONE, {"qk_norm": True}, "T5GemmaConfig.qk_norm = True .* 't5gemma', the closest"),
        (ONE, {"eoi_id": 5}, "T5GemmaConfig.eoi_id = 5"),
        (TWO, {"tied_embeddings": False}, "T5GemmaConfig.tied_embeddings = False"),
        (TWO, {"eoi_id": None}, "eoi_token_index = None"),
    ],
)
def test_what_transformers_cannot_represent_is_not_exported(folder, changes, message):
    config = dataclasses.replace(config_of(folder), **changes)
    with pytest.raises(ValueError, match=message):
        FAMILY.config_to_hf(config, {})


@pytest.mark.parametrize("folder", [ONE, TWO])
def test_stacks_without_a_local_layer_keep_a_window_or_say_nothing_of_it(folder):
    """Transformers makes the mask of local layers all the same, and fails where it reads null."""
    like = config_json(folder)
    stacks = [like["encoder"].get("text_config", like["encoder"]), like["decoder"]]
    for stack in stacks:
        stack |= {"layer_types": ["full_attention"] * len(stack["layer_types"])}
    config = FAMILY.config_from_hf(like)
    for own in (3, None):
        for stack in stacks:
            stack["sliding_window"] = own
        written = FAMILY.config_to_hf(config, like)
        encoder = written["encoder"].get("text_config", written["encoder"])
        for stack in (encoder, written["decoder"]):
            assert stack.get("sliding_window", "absent") == (own or "absent")
        assert FAMILY.config_from_hf(written) == config


def test_stacks_are_exported_only_as_transformers_has_them():
    config = config_of(ONE)
    encoder = dataclasses.replace(config.encoder, right_window=2)
    with pytest.raises(ValueError, match=r"T5GemmaConfig.encoder.right_window = 2"):
        FAMILY.config_to_hf(dataclasses.replace(config, encoder=encoder), {})
    encoder = dataclasses.replace(config.encoder, sliding_window=1)
    with pytest.raises(ValueError, match=r"T5GemmaConfig.encoder.sliding_window = 1 .* would be 0"):
        FAMILY.config_to_hf(dataclasses.replace(config, encoder=encoder), {})
    encoder = dataclasses.replace(config.encoder, rope=Rope(theta=77.0), query_scalar=4.0)
    changed = dataclasses.replace(config, encoder=encoder, dropout_rate=0.25)
    back = FAMILY.config_from_hf(FAMILY.config_to_hf(changed, {}))
    # A scale that is the head size need not be said.
    silent = dataclasses.replace(encoder, query_scalar=None)
    assert back == dataclasses.replace(changed, encoder=silent)


def test_what_need_not_be_said_keeps_no_model_from_transformers():
    config = config_of(TWO)
    long = dataclasses.replace(config.decoder, attention_pattern="LGLLL", local_rope=None)
    back = FAMILY.config_from_hf(FAMILY.config_to_hf(dataclasses.replace(config, decoder=long), {}))
    said = {"attention_pattern": "LG", "local_rope": config.decoder.rope}
    assert back.decoder == dataclasses.replace(config.decoder, **said)


def test_stacks_of_sizes_that_transformers_does_not_load_are_refused():
    config = config_of(ONE)
    odd = dataclasses.replace(config.encoder, num_heads=3, num_kv_heads=1)
    with pytest.raises(ValueError, match=r"d_model = 16 is no multiple of num_heads = 3"):
        FAMILY.config_to_hf(dataclasses.replace(config, encoder=odd), {})
