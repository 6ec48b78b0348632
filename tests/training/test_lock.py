"""A folder has one trainer, also while another start tidies up; what it made for nothing goes."""

from __future__ import annotations

from pathlib import Path

import pytest

from ul2tune import file_lock
from ul2tune.training import lock


@pytest.fixture
def runs(tmp_path) -> Path:
    (tmp_path / "runs").mkdir()
    return tmp_path / "runs"


def test_what_was_made_for_nothing_goes_and_what_was_there_stays(runs):
    (runs / "mine").mkdir()
    for name in ("new/deep/run", "mine", "mine/run"):
        with lock.exclusive(runs / name):
            assert (runs / name / ".lock").exists()
    assert sorted(runs.rglob("*")) == [runs / "mine"]
    with lock.exclusive(runs / "mine"):
        (runs / "mine" / "metrics.jsonl").touch()
    assert sorted(path.name for path in (runs / "mine").iterdir()) == [".lock", "metrics.jsonl"]


def test_the_folder_of_another_is_not_tidied(runs):
    with lock.exclusive(runs / "run"):
        with (
            pytest.raises(ValueError, match="Another process is training in"),
            lock.exclusive(runs / "run"),
        ):
            pass
        assert (runs / "run" / ".lock").exists()


def test_a_folder_that_cannot_be_made_leaves_nothing_either(runs):
    name = "x" * 256
    with (
        pytest.raises(ValueError, match=r"MODEL_DIR = .* cannot be written to \(File name too"),
        lock.exclusive(runs / "new" / name),
    ):
        pass
    assert list(runs.iterdir()) == []


@pytest.mark.parametrize("when", ["made", "opened"])
def test_another_start_may_take_folder_and_file_away_meanwhile(runs, monkeypatch, when):
    """It leaves between this one's steps: it had the lock until then."""
    folder, made, locked = runs / "run", Path.mkdir, file_lock.lock
    left = []

    def leave() -> None:
        if not left:
            left.append(True)
            (folder / ".lock").unlink(missing_ok=True)
            folder.rmdir()

    def make(path: Path, *arguments, **options) -> None:
        made(path, *arguments, **options)
        if when == "made" and path == folder:
            leave()

    def hold(*arguments) -> None:
        if when == "opened":
            leave()
        locked(*arguments)

    monkeypatch.setattr(Path, "mkdir", make)
    monkeypatch.setattr(file_lock, "lock", hold)
    with lock.exclusive(folder):
        assert left
        with (
            pytest.raises(ValueError, match="Another process is training in"),
            lock.exclusive(folder),
        ):
            pass
    assert not folder.exists()
