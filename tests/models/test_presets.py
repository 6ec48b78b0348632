"""Every shipped model file builds, and has the published number of parameters."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gin
import pytest

from ul2tune import sharding, tree
from ul2tune.models import base
from ul2tune.sharding import MeshConfig

FOLDER = Path(__file__).resolve().parents[2] / "gin" / "models"
# Millions of parameters, as published (T5, mT5 and ByT5 papers and model cards, to their rounding).
PUBLISHED = {
    "t5_1_0_small": 60.5,
    "t5_1_0_base": 223,
    "t5_1_0_large": 738,
    "t5_1_0_3b": 2852,
    "t5_1_0_11b": 11307,
    "t5_1_1_small": 77,
    "t5_1_1_base": 248,
    "t5_1_1_large": 783,
    "t5_1_1_xl": 2850,
    "t5_1_1_xxl": 11135,
    "mt5_small": 300,
    "mt5_base": 582,
    "mt5_large": 1230,
    "mt5_xl": 3742,
    "mt5_xxl": 12921,
    "byt5_small": 300,
    "byt5_base": 582,
    "byt5_large": 1228,
    "byt5_xl": 3738,
    "byt5_xxl": 12907,
    "ul2_20b": 19460,
    # T5X's file says 134.3, with an output head of its own; its logits are tied.
    "t5_decoder_base": 109.6,
    # Of the weights on the Hugging Face Hub, tied ones counted once (Gemma 3: the text part's).
    "opt_125m": 125.2,
    "opt_350m": 331.2,
    "opt_1_3b": 1315.8,
    "opt_2_7b": 2651.6,
    "opt_6_7b": 6658.5,
    "opt_13b": 12853,
    "opt_30b": 29974,
    "opt_66b": 65718,
    "llama2_7b": 6738.4,
    "llama2_13b": 13016,
    "llama2_70b": 68977,
    "llama3_8b": 8030.3,
    "llama3_70b": 70554,
    "llama3_1_8b": 8030.3,
    "llama3_2_1b": 1235.8,
    "llama3_2_3b": 3212.7,
    "qwen2_5_0_5b": 494.0,
    "qwen2_5_1_5b": 1543.7,
    "qwen2_5_7b": 7615.6,
    "qwen3_0_6b": 596.0,
    "qwen3_1_7b": 1720.6,
    "qwen3_4b": 4022.5,
    "qwen3_8b": 8190.7,
    "gemma2_2b": 2614.3,
    "gemma2_9b": 9241.7,
    "gemma2_27b": 27227,
    "gemma3_270m": 268.1,
    "gemma3_1b": 999.9,
    "gemma3_4b": 3880.1,
    "gemma3_12b": 11766,
    "gemma3_27b": 27009,
    # Sums of Gemma's and the cross-attention's; T5Gemma 2's as announced (370M, 1.7B, 7B).
    "t5gemma_2b_2b": 5597,
    "t5gemma_9b_2b": 12292,
    "t5gemma_9b_9b": 20333,
    "t5gemma2_270m_270m": 369,
    "t5gemma2_1b_1b": 1698,
    "t5gemma2_4b_4b": 7089,
}
ALL = sorted(path.stem for path in FOLDER.glob("*.gin"))


def load(name: str, *bindings: str) -> Any:
    """What MODEL is in a training run."""
    gin.clear_config()
    try:
        gin.parse_config("DROPOUT_RATE = 0.0")  # the run's, unless the model says otherwise
        gin.parse_config_file(str(FOLDER / f"{name}.gin"))
        gin.parse_config([*bindings, "take.value = %MODEL"])
        return take()
    finally:
        gin.clear_config()


@gin.configurable
def take(value: Any) -> Any:
    return value


@pytest.mark.parametrize("name", ALL)
def test_it_builds_and_shards(name):
    config = load(name)
    params = base.abstract_params(config)
    if name in PUBLISHED:
        assert tree.num_elements(params) / 1e6 == pytest.approx(PUBLISHED[name], rel=0.005)
    mesh = sharding.make_mesh(MeshConfig(data=1, fsdp=4, tensor=2))
    sharding.param_shardings(params, base.param_axes(config), mesh)


def test_published_sizes_are_all_there():
    assert set(PUBLISHED) <= set(ALL)


def test_the_dropout_macro_reaches_the_model():
    assert load("t5_1_1_small").dropout_rate == 0.0
    assert load("t5_1_1_small", "DROPOUT_RATE = 0.1").dropout_rate == 0.1


def test_umt5_has_a_bias_per_layer():
    axes = tree.flatten(base.param_axes(load("umt5_small")))
    assert axes["encoder/layers/relative_bias"] == ("layers", "heads", "relpos_buckets")
    assert "encoder/relative_bias" not in axes
