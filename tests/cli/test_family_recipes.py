"""Every family's two recipes at toy size, end to end: what is exported answers as what was trained.

The data is written directly (tests/prepare covers preparing it).
"""

from __future__ import annotations

import dataclasses
import functools
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests import compiling
from tests.cli import golden_configs
from tests.cli.family_roads import BEGUN, ROWS, STEPS
from tests.feed import prepared
from ul2tune import tree
from ul2tune.checkpoints import description, initialize, layout
from ul2tune.convert.hf import models as hf
from ul2tune.data.ul2 import PRESETS
from ul2tune.models import base


def families() -> list[str]:
    """All that have recipes of this kind: none can be added without being run here."""
    names = [path.stem for path in golden_configs.recipes()]
    return [n.removesuffix("_ul2r") for n in names if n.endswith("_ul2r") and n != "demo_ul2r"]


FAMILIES = families()


def test_every_family_of_the_issue_is_here():
    wanted = {"t5", "mt5", "umt5", "byt5", "ul2_20b", "opt", "llama", "qwen", "gemma", "t5gemma"}
    assert wanted <= set(FAMILIES)


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory) -> Path:
    """Both mixtures, once for all families: what the recipes name, in one vocabulary."""
    path = tmp_path_factory.mktemp("data")
    text = prepared.Task(
        name="text", examples=prepared.documents(40, high=200), noise=PRESETS["ul2r"]
    )
    pairs = prepared.Task(name="pairs", examples=prepared.pairs(40, inputs=30))
    prepared.write(path, "ul2r_own", [text])
    prepared.write(path, "instructions_own", [pairs])
    return path


@pytest.fixture(scope="module")
def travelled(tmp_path_factory, data_dir) -> Path:
    """The folders of all families, each down its road."""
    out = tmp_path_factory.mktemp("roads")
    command = [sys.executable, "-m", "tests.cli.family_roads", str(data_dir), str(out), *FAMILIES]
    # Forty programs of a few steps each: nearly all of the time is compilation.
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", **compiling.environment()}
    done = subprocess.run(
        command, cwd=golden_configs.ROOT, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return out


@dataclass(frozen=True)
class Road:
    """Where a road ended.

    Attributes:
      model: our configuration, without dropout.
      params: after the last step.
      exported: the folder at the end.
      before: the parameters that UL2R began with, and those that tuning began with.
    """

    model: Any
    params: Any
    exported: Path
    before: tuple[Any, Any]


@pytest.fixture(scope="module", params=FAMILIES)
def road(request, travelled: Path) -> Road:
    folder = travelled / request.param
    steps = {stage: layout.steps(folder / stage / "checkpoints") for stage in ("ul2r", "tune")}
    # They count from the imported model's on.
    assert steps["ul2r"] == [BEGUN, BEGUN + STEPS]
    assert steps["tune"] == [BEGUN + STEPS, BEGUN + 2 * STEPS]
    last = initialize.resolve(folder / "tune")
    model = dataclasses.replace(description.model_of(last), dropout_rate=0.0)
    begun = [folder / stage / "checkpoints" / str(steps[stage][0]) for stage in steps]
    params, *before = (initialize.load_params(d, on_one_device(model)) for d in (last, *begun))
    return Road(
        model=model,
        params=params,
        exported=folder / "exported",
        before=(tree.flatten(before[0]), tree.flatten(before[1])),
    )


def on_one_device(model: Any) -> Any:
    sharding = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    return jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding),
        base.abstract_params(model),
    )


# What config.json does not hold, or what changes no number of these.
FREE = {"dropout_rate": 0.0, "dtype": "float32", "remat": "none"}
TOKENS = np.array([[7, 29, 990, 1001, 5, 6], [400, 3, 3, 77, 120, 8]], np.int32)


def logits(model: Any, params: Any) -> np.ndarray:
    batch = {"decoder_input_tokens": TOKENS, "decoder_target_tokens": TOKENS}
    if "encoder_decoder" in model.LAYOUTS:
        batch["encoder_input_tokens"] = TOKENS[:, ::-1]
    return np.asarray(compute_logits(model, params, jax.tree.map(jnp.asarray, batch)))


@functools.partial(jax.jit, static_argnums=0)
def compute_logits(model: Any, params: Any, batch: Any) -> jax.Array:
    return base.bind(model, params).logits(batch)


@pytest.mark.slow
def test_the_exported_model_answers_as_the_trained_one(road: Road):
    source = hf.open_model(road.exported)
    config: Any = source.config
    assert dataclasses.replace(config, **FREE) == dataclasses.replace(road.model, **FREE)
    assert config.vocab_size == ROWS
    loaded = hf.load_params(source, on_one_device(road.model))
    found = logits(road.model, loaded)
    np.testing.assert_array_equal(found, logits(road.model, road.params))
    assert np.isfinite(found).all()
    assert found.std() > 1e-3
    # Both stages trained: every parameter differs from what the stage before left.
    first, second = road.before
    last = tree.flatten(road.params)
    for path, value in last.items():
        assert not np.array_equal(first[path], second[path]), path
        assert not np.array_equal(second[path], value), path


@pytest.mark.slow
def test_transformers_answers_as_the_trained_one(road: Road):
    """Where torch is installed (`make parity` makes an environment that has it)."""
    torch = pytest.importorskip("torch", reason="torch is not installed; see `make parity`")
    transformers = pytest.importorskip("transformers", reason="see `make parity`")
    config = transformers.AutoConfig.from_pretrained(road.exported)
    seq2seq = config.is_encoder_decoder
    kind = transformers.AutoModelForSeq2SeqLM if seq2seq else transformers.AutoModelForCausalLM
    theirs = kind.from_pretrained(road.exported, dtype=torch.float32).eval()
    tokens = torch.from_numpy(TOKENS.astype(np.int64))
    given = {"input_ids": tokens}
    if seq2seq:
        given = {"input_ids": tokens.flip(1), "decoder_input_ids": tokens}
    with torch.no_grad():
        expected = theirs(**given).logits.numpy()
    if config.model_type == "umt5":  # Transformers 5 scales whatever config.json says
        expected = expected * road.model.d_model**0.5
    np.testing.assert_allclose(logits(road.model, road.params), expected, atol=1e-4, rtol=1e-4)
