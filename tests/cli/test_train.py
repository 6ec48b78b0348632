"""What `ul2tune train` leaves of its configuration when a run is refused, fails or is ended."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest

from ul2tune.cli import distributed
from ul2tune.cli.train import saved

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
def test_a_first_start_that_fails_leaves_no_configuration(tmp_path, error):
    fail(tmp_path / "run" / "config.gin", "first", error)
    assert list((tmp_path / "run").iterdir()) == []


@pytest.mark.parametrize("error", ERRORS)
def test_a_later_start_that_fails_leaves_the_configuration_of_the_earlier(tmp_path, error):
    path = tmp_path / "config.gin"
    with saved("first", path):
        (tmp_path / "checkpoints" / "0").mkdir(parents=True)
    fail(path, "second", error)
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
