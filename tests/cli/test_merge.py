"""`ul2tune merge`, as a user types it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.checkpoints.test_merge import MODEL, params, write
from tests.convert import models
from ul2tune import sharding
from ul2tune.checkpoints import initialize, layout, trained_layout, vocabulary
from ul2tune.cli import main
from ul2tune.data import vocab
from ul2tune.evaluation.predictor import abstract_sharded_params


def run(*arguments: object) -> int:
    return main.main([str(argument) for argument in arguments])


@pytest.fixture
def model_dir(tmp_path: Path) -> Path:
    for step in (10, 20, 30):
        write(tmp_path / "run" / layout.SUBDIRECTORY / str(step), params(step))
    return tmp_path / "run"


def test_last_checkpoints_of_a_run(model_dir: Path, tmp_path: Path, capsys):
    assert run("merge", model_dir, tmp_path / "out", "--last=2") == 0
    assert "+0.5 x" in capsys.readouterr().out
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["checkpoints", "model.gin"]
    # It is a checkpoint like any other: it starts runs, on any mesh, and says where it came from.
    mesh = sharding.make_mesh(sharding.MeshConfig(fsdp=8))
    start = initialize.from_checkpoint(str(tmp_path / "out"))
    assert start.first_step == 30
    found = start(abstract_sharded_params(MODEL, mesh))
    expected = 0.5 * params(20)["head"] + 0.5 * params(30)["head"]
    np.testing.assert_allclose(found["head"], expected, rtol=1e-6)
    meta = layout.read_meta(initialize.resolve(tmp_path / "out"))
    assert [Path(term["checkpoint"]).name for term in meta["merged"]] == ["20", "30"]
    assert trained_layout.recorded(initialize.resolve(tmp_path / "out")) == "encoder_decoder"
    assert "d_model = 8" in (tmp_path / "out" / "model.gin").read_text()


def test_of_imported_models_exports_like_them(tmp_path: Path):
    for name in ("a", "b"):
        assert run("import", "hf", models.FLAN_T5, tmp_path / name) == 0
        (tmp_path / name / "vocabulary.json").write_text('{"kind": "bytes"}')
    both = (tmp_path / "a", tmp_path / "b", tmp_path / "out")
    assert run("merge", *both, "--weights=0.25,0.75", "--step=7") == 0
    assert layout.steps(tmp_path / "out" / "checkpoints") == [7]
    came_along = vocabulary.identity(vocab.load("bytes"))
    assert vocabulary.recorded(initialize.resolve(tmp_path / "out")) == came_along
    assert run("export", "hf", tmp_path / "out", tmp_path / "hf") == 0
    first, second = models.tensors(models.FLAN_T5), models.tensors(tmp_path / "hf")
    assert first.keys() == second.keys()
    for name, x in first.items():
        assert x.dtype == second[name].dtype
        np.testing.assert_array_equal(x, second[name])


def test_mistakes_write_nothing(model_dir: Path, tmp_path: Path, capsys):
    spoilt = params(1)
    spoilt["token_embedding"] = np.full_like(spoilt["token_embedding"], np.nan)
    write(tmp_path / "bad" / "checkpoints" / "1", spoilt)
    out = tmp_path / "out"
    for arguments, reason in (
        ((model_dir, out, "--last=4"), "holds 3 checkpoints (of steps [10, 20, 30])"),
        ((model_dir, model_dir, out, "--last=2"), "--last=2 takes one MODEL_DIR"),
        ((model_dir, model_dir, out, "--weights=1,x"), "should be numbers"),
        ((model_dir, model_dir, out, "--weights=1,1"), "sum to 2, not 1"),
        ((model_dir, tmp_path / "bad", out), "holds a NaN"),
        ((model_dir, tmp_path / "nowhere", out), "No checkpoint at"),
        ((model_dir, model_dir), "already exists"),
        ((model_dir, out, "--ema"), "holds no average"),
    ):
        before = sorted(tmp_path.iterdir())
        assert run("merge", *arguments) == 1, reason
        assert reason in capsys.readouterr().err
        assert sorted(tmp_path.iterdir()) == before
    assert run("merge", model_dir) == 2
    assert run("merge", model_dir, out, "--last=0") == 2
    assert "--last: 0 must be at least 1" in capsys.readouterr().err
