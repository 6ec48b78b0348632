"""A data folder that several use, and one that can only be read."""

import errno
import fcntl
import json
import os
import threading
from pathlib import Path
from typing import Any

import pytest
import seqio

from tests.prepare import reading
from ul2tune.data import manifest
from ul2tune.data.vocab_training import VocabularyConfig
from ul2tune.prepare import runners
from ul2tune.prepare.folder import hold
from ul2tune.prepare.tasks import register_text_task


def test_the_lock_of_another_user_is_no_obstacle(task, name, tmp_path, monkeypatch):
    """In a folder that both may write to, a file of one may be read-only to the other."""
    lock, may, opened = tmp_path / ".prepare.lock", os.access, Path.open
    lock.touch()

    def open_as_the_other(path: Path, mode: str = "r", *args: Any, **kwargs: Any) -> Any:
        if path == lock and mode != "r":
            raise PermissionError(13, "Permission denied", str(path))
        return opened(path, mode, *args, **kwargs)

    monkeypatch.setattr(Path, "open", open_as_the_other)
    monkeypatch.setattr(
        os, "access", lambda path, mode: (Path(path) != lock or mode == os.R_OK) and may(path, mode)
    )
    reading.run(name, tmp_path)
    assert manifest.read_mixture(tmp_path, name).tasks == (name,)


@pytest.fixture
def mixed(name, words, tmp_path, monkeypatch) -> str:
    """A mixture of two tasks, prepared in ``tmp_path / "data"``; its name."""
    monkeypatch.setenv("UL2TUNE_CACHE_DIR", str(tmp_path / "cache"))
    tasks = [f"{name}_a", f"{name}_b"]
    for each in tasks:
        register(each, words)
    seqio.MixtureRegistry.add(name, tasks, default_rate=1.0)
    reading.run(name, tmp_path / "data")
    return name


def register(name: str, words: str, objective: str = "ul2") -> None:
    register_text_task(
        name,
        words,
        format="jsonl",
        vocabulary=VocabularyConfig(pieces=300),
        objective=objective,
    )


def protect(folder: Path, monkeypatch, number: int = errno.EROFS) -> None:
    """Nothing below can be opened to write; a change by other means shows in a snapshot."""
    opened = Path.open

    def open_to_read(path: Path, mode: str = "r", *args: Any, **kwargs: Any) -> Any:
        if folder in path.parents and mode not in ("r", "rb"):
            raise OSError(number, os.strerror(number), str(path))
        return opened(path, mode, *args, **kwargs)

    monkeypatch.setattr(Path, "open", open_to_read)


@pytest.mark.parametrize("number", [errno.EROFS, errno.EACCES])
@pytest.mark.parametrize("locked", [True, False])
def test_what_can_only_be_read_is_checked(mixed, tmp_path, monkeypatch, capfd, number, locked):
    data = tmp_path / "data"
    # What a killed run has left is in nobody's way.
    (data / f"{mixed}_a" / "train" / ".data-00000.tmp").touch()
    if not locked:
        (data / ".prepare.lock").unlink()
    before = reading.snapshot(data)
    protect(data, monkeypatch, number)
    capfd.readouterr()
    reading.run(mixed, data)
    reading.run(mixed, data, splits=("validation",))
    assert reading.snapshot(data) == before
    told = capfd.readouterr().err
    assert f"{data} can only be read: what is there is checked." in told
    assert f"{mixed}_b/train: up to date" in told


def test_a_folder_may_be_closed_and_its_lock_be_open(mixed, tmp_path, monkeypatch):
    data, may = tmp_path / "data", os.access
    before = reading.snapshot(data)
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != data and may(path, mode))
    reading.run(mixed, data)
    assert reading.snapshot(data) == before
    (data / f"{mixed}_a" / "train" / "manifest.json").unlink()
    with pytest.raises(
        ValueError, match=r"cannot be written to \(Permission denied\), and .*_a/train"
    ):
        reading.run(mixed, data)


@pytest.mark.parametrize("change", ["text", "noise", "vocabulary", "rates", "stamp", "mixture"])
def test_what_has_to_be_written_is_named(mixed, words, tmp_path, monkeypatch, change):
    data = tmp_path / "data"
    path = manifest.mixture_path(data, mixed)
    needed = rf"{path.name} is missing there or out of date"
    if change == "text":
        with open(words, "a") as file:
            file.write('{"text": "one more document"}\n')
        needed = f"{mixed}_a/train is missing there or out of date"
    elif change == "noise":
        seqio.TaskRegistry.remove(f"{mixed}_b")
        register(f"{mixed}_b", words, "ul2r")
        seqio.MixtureRegistry.remove(mixed)
        seqio.MixtureRegistry.add(mixed, [f"{mixed}_a", f"{mixed}_b"], default_rate=1.0)
        needed = f"the manifest of {mixed}_b/train is out of date"
    elif change == "vocabulary":
        (copy,) = (data / "vocabularies").iterdir()
        copy.unlink()
        needed = f"vocabularies/{copy.name} is missing there"
    elif change == "rates":
        seqio.MixtureRegistry.remove(mixed)
        seqio.MixtureRegistry.add(mixed, [(f"{mixed}_a", 1.0), (f"{mixed}_b", 3.0)])
    elif change == "stamp":
        path.write_text(json.dumps(json.loads(path.read_text()) | {"stamps": {}}))
    else:
        path.unlink()
    before = reading.snapshot(data)
    monkeypatch.setattr(runners, "run_here", None)  # nothing is begun that cannot be kept
    protect(data, monkeypatch)
    expected = (
        rf"DATA_DIR = '{data}' cannot be written to \(Read-only file system\), and {needed}\."
    )
    with pytest.raises(ValueError, match=expected):
        reading.run(mixed, data)
    assert reading.snapshot(data) == before


def test_readers_wait_for_the_one_who_writes_and_not_for_each_other(tmp_path, monkeypatch, capfd):
    with (tmp_path / ".prepare.lock").open("w") as file:
        protect(tmp_path, monkeypatch)
        fcntl.flock(file, fcntl.LOCK_EX)
        held = threading.Event()

        def read() -> None:
            with hold(tmp_path), hold(tmp_path):
                held.set()

        thread = threading.Thread(target=read)
        thread.start()
        assert not held.wait(timeout=0.5)
    assert held.wait(timeout=60)
    thread.join(timeout=60)
    assert "Waiting for another process" in capfd.readouterr().err
