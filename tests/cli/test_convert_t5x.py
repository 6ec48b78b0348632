"""`ul2tune import t5x` and `ul2tune export t5x`, as a user types them."""

from __future__ import annotations

import json
from collections import Counter

import jax
import numpy as np
import pytest

from tests.convert import t5x_examples as examples
from ul2tune import sharding, tree
from ul2tune.checkpoints import initialize, layout
from ul2tune.cli import main
from ul2tune.convert.t5x import legacy
from ul2tune.convert.t5x import models as t5x
from ul2tune.convert.t5x.models import Export
from ul2tune.models import base
from ul2tune.optim import optimizer as optimizers
from ul2tune.optim.adafactor import AdafactorConfig
from ul2tune.optim.optimizer import OptimizerConfig
from ul2tune.training import state as state_lib


def run(*arguments: object) -> int:
    return main.main([str(argument) for argument in arguments])


def theirs(folder, config, adafactor, **changes):
    """A checkpoint of step 6 as T5X would have written it."""
    rules = examples.plans(config, adafactor)
    momentum = adafactor.momentum is not None
    moments = examples.moments(config, rules, 6, momentum=momentum)
    export = Export(config=config, step=6, moments=moments, plans=rules, **changes)
    params = examples.flat_params(config)
    return t5x.export_checkpoint(str(folder), export, params.__getitem__)


CASES = {
    "plain": (examples.T5_1_1, AdafactorConfig(), {"dtype": "bfloat16"}),
    "scanned": (
        examples.UMT5,
        AdafactorConfig(stacked_as="scanned", momentum=0.9),
        {"layout": "scanned"},
    ),
    "decoder_only": (
        examples.DECODER_ONLY,
        AdafactorConfig(momentum=0.9),
        {"dtype": "bfloat16", "format": "orbax"},
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_there_and_back_is_exact(tmp_path, capsys, case):
    config, adafactor, changes = CASES[case]
    path = theirs(tmp_path / "theirs", config, adafactor, **changes)
    assert run("import", "t5x", path, tmp_path / "ours") == 0
    assert "Adafactor's state came along" in capsys.readouterr().out
    assert layout.steps(tmp_path / "ours/checkpoints") == [6]
    assert run("export", "t5x", tmp_path / "ours", tmp_path / "back") == 0
    first, second = (t5x.open_tensors(str(tmp_path / name))[1] for name in ("theirs", "back"))
    assert set(first.names) == set(second.names)
    for name in first.names:
        a, b = first.read(name), second.read(name)
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(a, b, err_msg=name)


def test_every_parameter_is_read_once(tmp_path, monkeypatch):
    """Those of a bucket come over the network."""
    config, adafactor, changes = CASES["plain"]
    path = theirs(tmp_path / "theirs", config, adafactor, **changes)
    names, read = Counter(), legacy.T5XCheckpoint.read

    def counted(self: legacy.T5XCheckpoint, name: str) -> np.ndarray:
        names[name] += name.startswith("target/")
        return read(self, name)

    monkeypatch.setattr(legacy.T5XCheckpoint, "read", counted)
    assert run("import", "t5x", path, tmp_path / "ours") == 0
    assert max(names.values()) == 1
    assert json.loads((tmp_path / "ours/t5x/import.json").read_text())["dtype"] == "bfloat16"


@pytest.mark.parametrize("case", CASES)
def test_a_run_takes_up_the_optimisers_state(tmp_path, case):
    config, adafactor, changes = CASES[case]
    path = theirs(tmp_path / "theirs", config, adafactor, **changes)
    assert run("import", "t5x", path, tmp_path / "ours") == 0
    mesh = sharding.make_mesh(sharding.MeshConfig(), jax.devices()[:1])
    optimizer = optimizers.make(
        OptimizerConfig(adafactor=adafactor), base.abstract_params(config), base.param_axes(config)
    )
    spec = state_lib.specify(config, optimizer, mesh)
    init = initialize.from_checkpoint(str(tmp_path / "ours"), keep_optimizer=True)
    assert init.first_step == 6
    state, descent = init.optimizer_state(spec.state["opt_state"])
    assert state.count == descent.count == 6
    expected = examples.moments(config, examples.plans(config, adafactor), 6, momentum=True)
    for kind in ("v_row", "v_col", "v"):
        for leaf, array in tree.flatten(getattr(state, kind)).items():
            np.testing.assert_array_equal(array, getattr(expected, kind)[leaf], err_msg=leaf)
    if adafactor.momentum is not None:
        for leaf, array in tree.flatten(descent.momentum).items():
            np.testing.assert_array_equal(array, expected.momentum[leaf], err_msg=leaf)


def test_without_the_optimisers_state(tmp_path, capsys):
    path = theirs(tmp_path / "theirs", examples.T5_1_1, AdafactorConfig())
    arguments = ("import", "t5x", path, tmp_path / "ours")
    assert run(*arguments, "--step=3") == 1
    assert "--no_optimizer_state" in capsys.readouterr().err
    assert not (tmp_path / "ours").exists()
    assert run(*arguments, "--step=3", "--no_optimizer_state", "--set", "dropout_rate=0.1") == 0
    assert "no optimiser state" in capsys.readouterr().out
    assert layout.steps(tmp_path / "ours/checkpoints") == [3]
    back = tmp_path / "back"
    assert run("export", "t5x", tmp_path / "ours", back, "--layout=scanned") == 0
    assert "scanned layers, float32, without" in capsys.readouterr().out
    assert t5x.open_model(str(back)).config.per_layer_relative_bias
    assert not t5x.open_model(str(back)).has_adafactor


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("import", "t5x", "SOURCE", "NEW", "--revision=main"), "--revision means something"),
        (("import", "hf", "SOURCE", "NEW", "--set=dropout_rate=0"), "--set means something"),
        (("import", "t5x", "SOURCE", "NEW", "--set=heads=3"), "no field 'heads'"),
        (("import", "t5x", "SOURCE", "NEW", "--set=activation"), "no value"),
        (("import", "t5x", "SOURCE", "NEW", "--set=num_heads=5"), "has the shape"),
        (("import", "t5x", "nowhere", "NEW"), "no T5X checkpoint"),
    ],
)
def test_mistakes_write_nothing(tmp_path, capsys, arguments, message):
    path = theirs(tmp_path / "theirs", examples.T5_1_1, AdafactorConfig())
    places = {"SOURCE": path, "NEW": tmp_path / "new"}
    assert run(*(places.get(argument, argument) for argument in arguments)) == 1
    assert message in capsys.readouterr().err
    assert not (tmp_path / "new").exists()


def test_a_damaged_checkpoint_writes_nothing(tmp_path, capsys):
    path = theirs(tmp_path / "theirs", examples.T5_1_1, AdafactorConfig())
    chunk = tmp_path / "theirs/checkpoint_6/target.decoder.layers_1.mlp.wo.kernel/0.0"
    chunk.write_bytes(chunk.read_bytes()[:-20])
    assert run("import", "t5x", path, tmp_path / "new") == 1
    assert "damaged" in capsys.readouterr().err
    assert [p.name for p in tmp_path.iterdir()] == ["theirs"]
