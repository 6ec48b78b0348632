"""`ul2tune train`, and again with the configuration it saved."""

from __future__ import annotations

import dataclasses
import os
import signal

import pytest

from tests.training import tiny
from tests.training.processes import lines
from ul2tune.checkpoints import layout
from ul2tune.cli import main
from ul2tune.data import manifest
from ul2tune.training import writers

pytestmark = pytest.mark.usefixtures("one_program")
FILES = ("models/t5_1_1_tiny.gin", "optim/adafactor_pretrain.gin", "runs/pretrain.gin")
MACROS = {
    "MIXTURE_OR_TASK_NAME": "mix",
    "TASK_MODULES": (),
    "TASK_FEATURE_LENGTHS": {"inputs": 64, "targets": 48},
    "FeedConfig.min_segment_tokens": 16,
    "FeedConfig.max_segment_tokens": 48,
    "DATA_DIR": "data",
    "MODEL_DIR": "run",
    "BATCH_SIZE": 8,
    "CHECKPOINT_PERIOD": 2,
    "LOG_PERIOD": 1,
    "EVAL_PERIOD": None,
}


def train(files, **macros):
    flags = [f"--gin_file={file}" for file in files]
    flags += [f"--gin.{name}={value!r}" for name, value in macros.items()]
    return main.main(["train", *flags])


def test_a_run_with_a_relative_model_dir_resumes(tmp_path, monkeypatch, capsys, caplog):
    tiny.write_data(tmp_path / "data")
    monkeypatch.chdir(tmp_path)
    assert train(FILES, **MACROS, TRAIN_STEPS=1) == 0
    # The data was made with a variable that is not set by now: the run keeps its data.
    path = manifest.mixture_path("data", "mix")
    stale = {"modules": {}, "sources": {}, "variables": {"MY_RULE": "x"}}
    stamps = {"train": stale, "validation": stale}
    manifest.write(dataclasses.replace(manifest.read_mixture("data", "mix"), stamps=stamps), path)
    capsys.readouterr()
    assert train(["run/config.gin"], TRAIN_STEPS=2) == 0
    assert "checkpoint 1 of this run" in capsys.readouterr().err
    assert "MY_RULE. It is used as it is; run `ul2tune prepare`" in caplog.text
    assert [line["step"] for line in lines(tmp_path / "run/metrics.jsonl")] == [1, 2]
    # A finished run has nothing to train: its last step is fine, an earlier one a warning, and the
    # configuration stays that of the newest checkpoint.
    config = (tmp_path / "run/config.gin").read_text()
    for steps in (2, 1):
        caplog.clear()
        assert train(["run/config.gin"], TRAIN_STEPS=steps, LOG_PERIOD=7) == 0
        assert f"Nothing to train: the run is at step 2 of {steps}." in caplog.text
        assert (tmp_path / "run/config.gin").read_text() == config


def test_sigterm_saves_and_exits_as_a_finished_run_does(tmp_path, monkeypatch):
    tiny.write_data(tmp_path / "data")
    monkeypatch.chdir(tmp_path)
    macros = {**MACROS, "TRAIN_STEPS": 3, "CHECKPOINT_PERIOD": 1000}
    with monkeypatch.context() as patch:
        # The scheduler's signal, sent while step 1 is logged.
        term = lambda *_: os.kill(os.getpid(), signal.SIGTERM)  # noqa: E731
        patch.setattr(writers.MetricsWriter, "timing", term)
        assert train(FILES, **macros) == 0
    assert layout.steps("run/checkpoints") == [0, 1]
    assert train(FILES, **macros) == 0
    assert layout.steps("run/checkpoints") == [0, 1, 3]
