"""`ul2tune inspect CHECKPOINT …`, as a user types it."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

from tests.checkpoints.test_merge import MODEL, params, write
from tests.convert import models, t5x_examples
from ul2tune.cli import main
from ul2tune.convert.t5x import models as t5x


def run(*arguments: object) -> int:
    return main.main([str(argument) for argument in arguments])


@pytest.fixture
def printed(capsys):
    def inspect(*arguments: object) -> str:
        capsys.readouterr()
        assert run("inspect", *arguments) == 0
        out = capsys.readouterr().out
        table = [x for x in out.splitlines() if not x.startswith(("a: ", "b: ", "path: "))]
        assert max(map(len, table)) <= 100 or "--json" in arguments
        return out

    return inspect


def test_of_ours(tmp_path: Path, printed):
    arrays = params(0)
    arrays["head"] = np.where(arrays["head"] > 1, np.nan, arrays["head"])
    step_dir = write(tmp_path / "5", arrays, ema={"head": params(1)["head"]})
    found = json.loads(printed(step_dir, "--json"))
    assert found["step"] == 5
    assert found["model"]["class"] == "T5Config"
    assert len(found["config"]) == 12
    head = found["arrays"]["params/head"]
    finite = arrays["head"][np.isfinite(arrays["head"])]
    assert head["shape"] == [24, 8]
    assert head["not_finite"] == np.isnan(arrays["head"]).sum() > 0
    assert head["rms"] == pytest.approx(np.sqrt(np.mean(finite.astype(np.float64) ** 2)))
    assert head["largest"] == np.abs(finite).max()
    assert found["totals"]["params"]["size"] == sum(x.size for x in arrays.values())
    assert found["totals"]["ema"]["arrays"] == 1
    text = printed(step_dir)
    bad = f" {head['not_finite']}"
    (line,) = [x for x in text.splitlines() if x.startswith("  head") and x.endswith(bad)]
    assert "24x8" in line
    assert "        query " in text
    assert "step" not in [x.split()[0] for x in text.splitlines()[6:]]
    assert "\nstep " in printed(step_dir, "--all")


def test_of_transformers_and_t5x(tmp_path: Path, printed):
    text = printed(models.FLAN_T5)
    assert "decoder.block.0.layer.0.\n" in text
    assert " bf16 " in text
    arrays = params(0)
    export = t5x.Export(config=MODEL, step=4, layout="plain")
    written = t5x.export_checkpoint(str(tmp_path / "t5x"), export, arrays.__getitem__)
    found = json.loads(printed(written, "--json"))
    assert found["step"] == 4
    assert found["totals"]["target"]["size"] == sum(x.size for x in arrays.values())
    # Across formats both go by our names.
    step_dir = write(tmp_path / "5", arrays)
    assert "|b - a| / |a| = 0 over" in printed(step_dir, written)
    assert run("import", "hf", models.FLAN_T5, tmp_path / "flan") == 0
    assert " 0 over all" in printed(tmp_path / "flan", models.FLAN_T5)


def test_of_two(tmp_path: Path, printed):
    a, b = params(0), params(0)
    b["head"] = b["head"] * np.float32(1.5)
    b["decoder/final_norm"] = np.zeros(9, np.float32)
    del b["encoder/final_norm"]
    b["extra"] = np.ones(3, np.float32)
    other = dataclasses.replace(t5x_examples.T5_1_1, activation="silu_gated")
    pair = write(tmp_path / "1", a), write(tmp_path / "2", b, other)
    found = json.loads(printed(*pair, "--json"))
    assert found["only_first"] == ["params/encoder/final_norm"]
    assert found["only_second"] == ["params/extra"]
    assert found["shapes"] == {"params/decoder/final_norm": [[8], [9]]}
    assert found["model"] == ["activation: gelu_gated -> silu_gated"]
    assert found["changes"]["params/head"]["relative"] == pytest.approx(0.5)
    assert found["equal"] == len(found["changes"]) - 1
    text = printed(*pair)
    for words in (
        "only in a: params/encoder/final_norm",
        "shape of params/decoder/final_norm: 8 -> 9",
        "model: activation: gelu_gated -> silu_gated",
    ):
        assert words in text
    assert [x.split()[1] for x in text.splitlines() if x.startswith("params/")] == ["0.5"]


def test_of_two_with_nothing_in_common(tmp_path: Path, printed):
    """No distance of 0, which would read as equal."""
    pair = write(tmp_path / "1", params(0)), write(tmp_path / "2", {"x": np.ones(3, np.float32)})
    text = printed(*pair)
    assert text.splitlines()[-1].startswith("No array of a has the name and shape of one of b")
    assert "only in b: params/x" in text
    assert json.loads(printed(*pair, "--json"))["relative"] is None


def test_mistakes_are_explained(tmp_path: Path, capsys):
    step_dir = write(tmp_path / "1", params(0))
    for arguments, reason in (
        ((step_dir, step_dir, step_dir), "or two to compare"),
        ((tmp_path / "nowhere",), "does not exist"),
    ):
        assert run("inspect", *arguments) == 1
        assert reason in capsys.readouterr().err
    (tmp_path / "empty").mkdir()
    assert run("inspect", tmp_path / "empty") == 1
    message = capsys.readouterr().err
    assert f"{str(tmp_path / 'empty')!r} holds no checkpoint of ours (a MODEL_DIR, " in message
    for expected in ("of Transformers' (a folder with config.json)", "T5X checkpoint: expected"):
        assert expected in message
