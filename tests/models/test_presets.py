"""Every shipped model file builds, and has the published number of parameters."""

from __future__ import annotations

from pathlib import Path

import gin
import pytest

from ul2tune import sharding, tree
from ul2tune.models import base
from ul2tune.models.t5 import T5Config
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
}
ALL = sorted(path.stem for path in FOLDER.glob("*.gin"))


def load(name: str, *bindings: str) -> T5Config:
    """What MODEL is in a training run."""
    gin.clear_config()
    try:
        gin.parse_config_file(str(FOLDER / f"{name}.gin"))
        gin.parse_config([*bindings, "take.value = %MODEL"])
        return take()
    finally:
        gin.clear_config()


@gin.configurable
def take(value: T5Config) -> T5Config:
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
