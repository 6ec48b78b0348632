from __future__ import annotations

from pathlib import Path

import gin
import jax.numpy as jnp
import pytest

from ul2tune.optim.optimizer import OptimizerConfig, make

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


@pytest.fixture
def gin_config():
    gin.clear_config()
    yield
    gin.clear_config()


def test_every_preset_is_listed():
    assert {path.stem for path in FOLDER.glob("*.gin")} == EXPECTED.keys()


@pytest.mark.parametrize("preset", EXPECTED)
@pytest.mark.usefixtures("gin_config")
def test_preset_builds_the_optimiser_its_header_promises(preset):
    text = (FOLDER / f"{preset}.gin").read_text()
    gin.parse_config(f"{text}\nTRAIN_STEPS = 20000\nTRAIN_STEPS_RELATIVE = 20000\n")
    config = gin.query_parameter("OPTIMIZER/macro.value").scoped_configurable_fn()
    assert isinstance(config, OptimizerConfig)
    name, rates = EXPECTED[preset]
    assert config.name == name
    optimizer = make(config, {"w": jnp.ones((2, 2))}, {"w": ("embed", "mlp")})
    actual = [float(optimizer.schedule(step)) for step in (0, 10_000, 20_000)]
    assert actual == pytest.approx(rates, rel=1e-4, abs=1e-9)
