"""What `ul2tune train` leaves of its configuration when a run is refused, fails or is ended."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys

import pytest

from tests.cli import test_resume as resume
from tests.evaluation import prepared as evaluated
from tests.training import tiny
from ul2tune import atomic
from ul2tune.checkpoints.manager import CheckpointWriteError
from ul2tune.cli import distributed, prepared
from ul2tune.cli.train import saved
from ul2tune.data.embedding_rows import ROWS
from ul2tune.feed.config import FEED, FeedConfig
from ul2tune.training import lock

ERRORS = [ValueError, AttributeError, KeyboardInterrupt, FloatingPointError]


def start(path, text, error, step):
    with saved(text, path):
        assert path.read_text() == text
        if step is not None:
            (path.parent / "checkpoints" / str(step)).mkdir(parents=True)
        raise error("no")


def fail(path, text, error, step: int | None = None):
    """A start that fails, after it has saved a checkpoint of `step`."""
    with pytest.raises(error, match="no"):
        start(path, text, error, step)


@pytest.mark.parametrize("error", ERRORS)
def test_a_first_start_that_fails_leaves_nothing(tmp_path, error):
    (tmp_path / "runs").mkdir()
    fail(tmp_path / "runs" / "new" / "run" / "config.gin", "first", error)
    assert list((tmp_path / "runs").iterdir()) == []


@pytest.mark.parametrize("error", ERRORS)
def test_a_later_start_that_fails_leaves_the_configuration_of_the_earlier(tmp_path, error):
    path = tmp_path / "config.gin"
    with saved("first", path):
        (tmp_path / "checkpoints" / "0").mkdir(parents=True)
    fail(path, "second", error)
    assert path.read_text() == "first"


def test_a_start_with_nothing_to_train_leaves_the_configuration_of_the_earlier(tmp_path):
    path = tmp_path / "config.gin"
    (tmp_path / "checkpoints" / "20").mkdir(parents=True)
    with saved("trained without the command line", path):
        pass
    assert path.exists()  # the only one there is
    path.write_text("first")
    with saved("second", path):
        assert path.read_text() == "second"
    assert path.read_text() == "first"


@pytest.mark.parametrize("error", ERRORS)
def test_a_checkpoint_keeps_the_configuration_it_was_trained_under(tmp_path, error):
    path = tmp_path / "config.gin"
    fail(path, "first", error, step=0)
    assert path.read_text() == "first"
    fail(path, "second", error)
    assert path.read_text() == "first"
    fail(path, "second", error, step=5)
    assert path.read_text() == "second"


def test_a_checkpoint_that_is_written_again_is_of_the_later_configuration(tmp_path):
    path, step_dir = tmp_path / "config.gin", tmp_path / "checkpoints" / "5"
    fail(path, "first", ValueError, step=5)

    def write_again():
        with saved("second", path):
            step_dir.rename(step_dir.with_suffix(".bad"))
            step_dir.mkdir()
            raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        write_again()
    assert path.read_text() == "second"


def test_a_start_beside_a_run_leaves_its_configuration(tmp_path):
    path = tmp_path / "config.gin"
    path.write_text("first")
    with (
        lock.exclusive(tmp_path),
        pytest.raises(ValueError, match="Another process is training"),
        saved("second", path),
    ):
        raise AssertionError("was let in")
    assert path.read_text() == "first"


def test_a_start_that_loses_to_another_leaves_that_one_s_configuration(tmp_path):
    """Both were let in for a moment, and both are of one command: a job that was sent twice."""
    path = tmp_path / "config.gin"

    def lose():
        with saved("the same", path):
            atomic.write_text(path, "the same")
            raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        lose()
    assert path.read_text() == "the same"


def test_what_ended_a_start_is_told_also_where_nothing_can_be_put_back(
    tmp_path, monkeypatch, caplog
):
    path = tmp_path / "config.gin"
    path.write_text("first")

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    def fail_on_a_full_disk():
        with saved("second", path):
            monkeypatch.setattr(os, "fsync", full)
            raise CheckpointWriteError("Could not save step 0")

    with pytest.raises(CheckpointWriteError, match="Could not save step 0"):
        fail_on_a_full_disk()
    assert "config.gin could not be put back (No space left on device)" in caplog.text
    assert sorted(file.name for file in tmp_path.iterdir()) == [".lock", "config.gin"]


@pytest.mark.parametrize(
    ("batch_size", "message", "prepares"),
    [(8, "'instructions' was prepared with another vocabulary", True), (0, "batch_size", False)],
)
def test_hooks_read_what_the_run_prepared_and_the_rest_is_checked_before(
    tmp_path, monkeypatch, capsys, batch_size, message, prepares
):
    monkeypatch.chdir(tmp_path)

    def prepare(values):
        tiny.write_data(tmp_path / "data")
        evaluated.write(tmp_path / "data")
        return 0

    monkeypatch.setattr(prepared, "_prepare", prepare)
    macros = resume.MACROS | {"BATCH_SIZE": batch_size, "HOOK_MIXTURES": ("instructions",)}
    assert resume.train([*resume.FILES, "hooks/evaluate.gin"], **macros, TRAIN_STEPS=1) == 1
    assert message in capsys.readouterr().err
    assert (tmp_path / "data").exists() == prepares
    assert not (tmp_path / "run").exists()


@pytest.fixture
def never_prepares(tmp_path, monkeypatch):
    """A working folder in which nothing is prepared, and preparing would fail the test."""
    monkeypatch.chdir(tmp_path)

    def prepare(values):
        raise AssertionError("prepares")

    monkeypatch.setattr(prepared, "_prepare", prepare)


@pytest.mark.usefixtures("never_prepares")
def test_a_missing_initial_checkpoint_is_told_before_data_is_prepared(tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    continued = [*resume.FILES, "runs/continue.gin"]
    for path in ("empty", "nowhere"):
        macros = resume.MACROS | {"INITIAL_CHECKPOINT_PATH": path, "TRAIN_STEPS": 1}
        assert resume.train(continued, **macros) == 1
        assert f"No checkpoint at '{tmp_path / path}'" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


@pytest.mark.usefixtures("never_prepares")
def test_a_model_dir_that_cannot_be_used_is_told_before_data_is_prepared(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    macros = resume.MACROS | {"MODEL_DIR": "file/run", "TRAIN_STEPS": 1}
    assert resume.train(resume.FILES, **macros) == 1
    assert "MODEL_DIR = 'file/run' cannot be written to" in capsys.readouterr().err
    with lock.exclusive("run"):
        assert resume.train(resume.FILES, **resume.MACROS, TRAIN_STEPS=1) == 1
    assert "Another process is training in run" in capsys.readouterr().err


@pytest.mark.usefixtures("never_prepares")
def test_rows_that_the_model_does_not_read_are_told_before_data_is_prepared(tmp_path, capsys):
    assert resume.train(resume.FILES, **resume.MACROS, LAYOUT="prefix_lm", TRAIN_STEPS=1) == 1
    assert "FeedConfig.layout = 'prefix_lm' is not for T5Config" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_a_run_whose_data_cannot_be_prepared_leaves_nothing(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(prepared, "_prepare", lambda values: 3)
    assert resume.train(resume.FILES, **resume.MACROS, TRAIN_STEPS=1) == 1
    assert "Preparing it failed with exit status 3" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_what_prepares_for_a_run_knows_the_models_rows_and_how_it_is_fed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    told = []
    monkeypatch.setattr(prepared, "_prepare", lambda values: told.append(dict(os.environ)) or 3)
    assert resume.train([*resume.FILES], **resume.MACROS, TRAIN_STEPS=1) == 1
    (environment,) = told
    assert environment[ROWS] == "4096"  # of models/t5_1_1_tiny.gin
    lengths = FeedConfig(**json.loads(environment[FEED])).feature_lengths
    assert lengths == {"inputs": 64, "targets": 48}


def test_a_run_that_goes_on_does_not_look_for_its_initial_checkpoint(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(prepared, "_prepare", lambda values: 3)
    (tmp_path / "run/checkpoints/7").mkdir(parents=True)
    macros = resume.MACROS | {"INITIAL_CHECKPOINT_PATH": "nowhere", "TRAIN_STEPS": 1}
    assert resume.train([*resume.FILES, "runs/continue.gin"], **macros) == 1
    assert "Preparing it failed with exit status 3" in capsys.readouterr().err


def test_a_terminated_start_leaves_the_configuration_of_the_earlier(tmp_path):
    (tmp_path / "config.gin").write_text("first")
    code = (
        "import sys, time, pathlib\nfrom ul2tune.cli.train import saved\n"
        "with saved('second', pathlib.Path(sys.argv[1])):\n"
        "    print('started', flush=True)\n    time.sleep(60)\n"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "config.gin")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "started\n"
        assert (tmp_path / "config.gin").read_text() == "second"
        child.send_signal(signal.SIGTERM)
        assert child.wait(30) == 128 + signal.SIGTERM
    assert (tmp_path / "config.gin").read_text() == "first"


@pytest.mark.parametrize("joined", [True, False])
def test_of_several_processes_the_handler_stays(tmp_path, monkeypatch, joined):
    monkeypatch.setattr(distributed, "is_joined", lambda: joined)
    before = signal.getsignal(signal.SIGTERM)
    with saved("first", tmp_path / "config.gin"):
        assert (signal.getsignal(signal.SIGTERM) is before) == joined
    assert signal.getsignal(signal.SIGTERM) is before
