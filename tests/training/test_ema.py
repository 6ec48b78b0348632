"""The average of the parameters: the recurrence, on a mesh, through checkpoints, in use."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from tests.training import tiny
from tests.training.processes import lines
from ul2tune import sharding, tree
from ul2tune.checkpoints import initialize, layout
from ul2tune.cli import exported
from ul2tune.evaluation.predictor import abstract_sharded_params
from ul2tune.models import base
from ul2tune.sharding import MeshConfig
from ul2tune.training import run as run_lib
from ul2tune.training.config import RunConfig
from ul2tune.types import HookContext

pytestmark = pytest.mark.usefixtures("one_program")
DECAY = 0.75
MESH = MeshConfig(fsdp=4, tensor=2)
ONLY_DECODER = {"groups": ((r"decoder/.*", 1.0), (".*", "freeze"))}


def flat(values: Any) -> dict[str, np.ndarray]:
    return tree.flatten(jax.device_get(values))


def test_is_the_recurrence_and_changes_nothing_else():
    """Against NumPy in float64; the parameters are those of a run without an average, bit for
    bit."""
    plain, averaging = tiny.Trainer(MESH), tiny.Trainer(MESH, ema_decay=DECAY)
    expected = {path: x.astype(np.float64) for path, x in flat(plain.state["params"]).items()}
    for path, average in flat(averaging.state["ema"]).items():
        np.testing.assert_array_equal(average, expected[path].astype(np.float32), path)
    for index in range(3):
        plain.run(tiny.batch(index))
        averaging.run(tiny.batch(index))
        for path, new in flat(plain.state["params"]).items():
            expected[path] = DECAY * expected[path] + (1 - DECAY) * new
    found = tree.flatten(averaging.state["ema"])
    moved = 0.0
    for path, new in tree.flatten(averaging.state["params"]).items():
        np.testing.assert_array_equal(new, tree.flatten(plain.state["params"])[path], path)
        np.testing.assert_allclose(found[path], expected[path], rtol=1e-5, atol=1e-6, err_msg=path)
        assert found[path].dtype == new.dtype == np.float32
        assert found[path].sharding == new.sharding
        moved = max(moved, float(np.abs(np.asarray(found[path]) - np.asarray(new)).max()))
    assert moved > 1e-3
    assert "ema" not in plain.state


@dataclasses.dataclass
class Sees:
    """A hook that keeps the parameters it is given."""

    period_steps: int = 6
    params: Any = None

    def __call__(self, context: HookContext) -> dict[str, float]:
        self.params = jax.device_get(context.params)
        return {}


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("data")
    tiny.write_data(path)
    return path


@pytest.fixture(scope="module")
def finished(tmp_path_factory, data_dir) -> Any:
    """A run of six steps in one go that averages and evaluates the average: folder, last
    parameters, what a hook saw."""
    path, hook = tmp_path_factory.mktemp("finished"), Sees()
    params = run_lib.train(**arguments(path, data_dir, eval_ema=True), hooks=[hook])
    return path, jax.device_get(params), hook.params


def arguments(path: Path, data_dir: Path, **run: Any) -> dict[str, Any]:
    """Only the decoder trains."""
    values = tiny.arguments(path, data_dir, optimizer=ONLY_DECODER, **{"ema_decay": DECAY, **run})
    return {**values, "init": tiny.drawn(tiny.RUN_MODEL)}


def loaded(path: Path, *, ema: bool) -> Any:
    mesh = sharding.make_mesh(MESH)
    return initialize.load_params(path, abstract_sharded_params(tiny.RUN_MODEL, mesh), ema=ema)


def same(a: Any, b: Any) -> bool:
    first, second = flat(a), flat(b)
    return first.keys() == second.keys() and all(np.array_equal(first[p], second[p]) for p in first)


def test_is_saved_restored_and_chosen(finished, data_dir, tmp_path):
    path, params, seen = finished
    assert same(loaded(path, ema=False), params)
    average = loaded(path, ema=True)
    assert same(seen, average)
    assert not same(seen, params)
    # What is frozen is its own average, and is stored once.
    leaves = layout.read_meta(initialize.resolve(path))["leaves"]
    stored = {name.removeprefix("ema/") for name in leaves if name.startswith("ema/")}
    assert {name.split("/")[0] for name in stored} == {"decoder"}
    assert np.array_equal(flat(average)["token_embedding"], flat(params)["token_embedding"])
    # A new run, and an export, may begin with it.
    start = initialize.from_checkpoint(str(path), ema=True)
    mesh = sharding.make_mesh(MESH)
    assert same(start(abstract_sharded_params(tiny.RUN_MODEL, mesh)), average)
    step_dir = initialize.resolve(path)
    read = exported.Reader(step_dir, tiny.RUN_MODEL, ema=True)
    shapes = tree.flatten(base.abstract_params(tiny.RUN_MODEL))
    assert same(tree.unflatten({p: read(p) for p in shapes}), average)
    # Stopped after four steps and resumed: bit for bit the same.
    run_lib.train(**arguments(tmp_path, data_dir, train_steps=4))
    run_lib.train(**arguments(tmp_path, data_dir))
    assert same(loaded(tmp_path, ema=True), average)
    assert same(loaded(tmp_path, ema=False), params)
    losses = [lines(p / "metrics.jsonl")[-1]["validation/loss"] for p in (path, tmp_path)]
    assert losses[0] != losses[1]  # of the average and of the last parameters


@pytest.mark.slow
def test_switching_in_the_middle_is_refused(finished, data_dir, tmp_path):
    path = tmp_path / "averaging"
    shutil.copytree(finished[0], path)
    with pytest.raises(ValueError, match=r"run/ema_decay: 0.75 -> 0.5"):
        run_lib.train(**arguments(path, data_dir, ema_decay=0.5, train_steps=7))
    with pytest.raises(ValueError, match=r"run/ema_decay: 0.75 -> \(absent\)"):
        run_lib.train(**arguments(path, data_dir, ema_decay=None, train_steps=7))
    plain = tmp_path / "plain"
    run_lib.train(**arguments(plain, data_dir, ema_decay=None, train_steps=1))
    saved = layout.read_meta(initialize.resolve(plain))
    assert not any(name.startswith("ema/") for name in saved["leaves"])
    assert "ema" not in json.dumps(saved["config"]["run"])  # older checkpoints still fit
    with pytest.raises(ValueError, match=r"ema_decay = 0.75 was switched on in the middle of a"):
        run_lib.train(**arguments(plain, data_dir, allow_config_change=True))
    with pytest.raises(ValueError, match="holds no average of its parameters"):
        loaded(plain, ema=True)
    # Switching it off is possible when it is meant.
    run_lib.train(
        **arguments(path, data_dir, ema_decay=None, train_steps=7, allow_config_change=True)
    )
    with pytest.raises(ValueError, match="holds no average"):
        loaded(path, ema=True)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"ema_decay": 1.0}, "ema_decay = 1.0 must lie between 0 and 1"),
        ({"ema_decay": 0.0}, "ema_decay = 0.0 must lie"),
        ({"eval_ema": True}, "eval_ema = True needs an average"),
    ],
)
def test_config_refuses(values, message):
    with pytest.raises(ValueError, match=message):
        RunConfig(model_dir="x", train_steps=1, **values)
