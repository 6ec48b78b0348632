"""SIGTERM and SIGINT end what moves files about, also where they come inside of a callback."""

from __future__ import annotations

import signal
import subprocess
from pathlib import Path
from typing import Any, cast

import pytest

from tests import interrupting
from tests.cli.test_convert_t5x import theirs
from tests.convert import models
from tests.convert import t5x_examples as examples
from ul2tune.cli import exported, main, prepared
from ul2tune.optim.adafactor import AdafactorConfig
from ul2tune.status_line import Progress

pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
SIGNALS = pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])


def run(*arguments: object) -> int:
    """The exit status, whichever way the command ends."""
    try:
        return main.main([str(argument) for argument in arguments])
    except SystemExit as exit:
        return cast(int, exit.code)


@pytest.fixture(scope="module")
def ours(tmp_path_factory) -> dict[str, Path]:
    """What the formats import, and a model that was imported."""
    folder = tmp_path_factory.mktemp("models")
    t5x = theirs(folder / "t5x", examples.T5_1_1, AdafactorConfig())
    assert run("import", "t5x", t5x, folder / "ours", "--no_optimizer_state") == 0
    return {"hf": models.FLAN_T5, "t5x": Path(t5x), "ours": folder / "ours"}


@SIGNALS
@pytest.mark.parametrize("command", ["import hf", "import t5x", "export hf", "export t5x", "merge"])
def test_a_signal_that_is_ignored_in_a_callback_ends_the_command(
    ours, tmp_path, monkeypatch, command, number
):
    came = []

    def collect(*_: Any) -> None:
        came.append(number)
        interrupting.collect(number)

    class Collected(exported.StoredArray):
        def __init__(self, *arguments: Any):
            super().__init__(*arguments)
            collect()

    if command.startswith("export"):
        monkeypatch.setattr(exported, "StoredArray", Collected)
        sources = [ours["ours"]]
    else:
        monkeypatch.setattr(Progress, "advance", collect)
        sources = [ours[command.split()[-1]]] if command != "merge" else [ours["ours"]] * 2
    assert run(*command.split(), *sources, tmp_path / "out") == 128 + number
    assert came == [number]
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


@SIGNALS
def test_a_run_that_waits_for_its_preparing_child_hears_it_too(tmp_path, monkeypatch, number):
    class Child:
        """Never ends by itself."""

        def __init__(self, *_: Any, **__: Any):
            self.is_killed = False
            children.append(self)

        def wait(self, timeout: float | None = None) -> int:
            if self.is_killed:
                return -signal.SIGKILL
            assert not waits, "asked again"
            waits.append(timeout)
            interrupting.collect(number)
            raise subprocess.TimeoutExpired("prepare", 0.0)

        def kill(self) -> None:
            self.is_killed = True

    children: list[Child] = []
    waits: list[float | None] = []
    monkeypatch.setattr(subprocess, "Popen", Child)
    with pytest.raises((KeyboardInterrupt, SystemExit)):
        prepared.prepare_missing(mixture="notes", modules=(), data_dir=str(tmp_path))
    (child,) = children
    assert child.is_killed
