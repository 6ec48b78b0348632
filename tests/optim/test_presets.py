from __future__ import annotations

import functools
from itertools import permutations
from pathlib import Path

import jax.numpy as jnp
import pytest

from ul2tune.cli import gin_config
from ul2tune.optim.optimizer import OptimizerConfig, make
from ul2tune.training.run import train

FOLDER = Path(__file__).resolve().parents[2] / "gin/optim"
# preset -> (optimiser, rates at steps 0, 10,000 and 20,000 of 20,000)
EXPECTED = {
    "adam_opt_iml": ("adamw", [0, 5e-5 * 10_000 / 19_940, 0]),
    "adafactor_finetune": ("adafactor", [1e-3, 1e-3, 1e-3]),
    "adafactor_pretrain": ("adafactor", [0.01, 0.01, 0.5**0.5 * 0.01]),
    "adafactor_ul2r": ("adafactor", [1e-4, (1e-4 + 1e-6) / 2, 1e-6]),
    "adamw": ("adamw", [0, 1e-4, 0]),
    "lion": ("lion", [0, 3e-5, 0]),
    "muon": ("muon", [0, 3e-4, 0]),
}


def configured(*files: str, flags=()) -> OptimizerConfig:
    """The optimiser of a run with these files, as `ul2tune train` builds it."""
    config = gin_config.load(
        ["models/t5_1_1_tiny.gin", "data/ul2_stdlib.gin", "runs/pretrain.gin", *files],
        # Never both in a run; here, so that each preset finds the one it reads.
        [("MODEL_DIR", "x"), ("TRAIN_STEPS", "20000"), ("TRAIN_STEPS_RELATIVE", "20000"), *flags],
        roots=[train],
    )
    return config.arguments(train, without=["model", "data", "run"])["optimizer"]


@functools.cache
def preset(name: str) -> OptimizerConfig:
    return configured(f"optim/{name}.gin")


def test_every_preset_is_listed():
    assert {path.stem for path in FOLDER.glob("*.gin")} == EXPECTED.keys()


@pytest.mark.parametrize("name", EXPECTED)
def test_preset_builds_the_optimiser_its_header_promises(name):
    config = preset(name)
    algorithm, rates = EXPECTED[name]
    assert config.name == algorithm
    optimizer = make(config, {"w": jnp.ones((2, 2))}, {"w": ("embed", "mlp")})
    actual = [float(optimizer.schedule(step)) for step in (0, 10_000, 20_000)]
    assert actual == pytest.approx(rates, rel=1e-4, abs=1e-9)


@pytest.mark.parametrize(("first", "last"), list(permutations(EXPECTED, 2)))
def test_the_last_of_two_presets_leaves_nothing_of_the_first(first, last):
    assert configured(f"optim/{first}.gin", f"optim/{last}.gin") == preset(last)


def test_what_comes_after_a_preset_wins(tmp_path):
    mine = tmp_path / "mine.gin"
    mine.write_text(
        "from ul2tune.optim import optimizer\n"
        "optimizer.OptimizerConfig.max_grad_norm = 2.0\nLEARNING_RATE = 0.5\n"
    )
    flags = [("OptimizerConfig.weight_decay", "0.25")]
    config = configured("optim/adafactor_ul2r.gin", str(mine), flags=flags)
    assert (config.max_grad_norm, config.schedule.learning_rate) == (2.0, 0.5)
    assert config.weight_decay == 0.25


def test_adafactor_is_set_by_its_class_as_docs_t5x_does():
    flags = [("AdafactorConfig.stacked_as", '"scanned"')]
    assert configured("optim/adafactor_ul2r.gin", flags=flags).adafactor.stacked_as == "scanned"
