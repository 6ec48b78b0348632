"""Data that is missing or stale is prepared by a child process, and only that."""

from __future__ import annotations

import importlib.util
import sys
import threading

import pytest

from ul2tune.cli import prepared
from ul2tune.data import manifest, stamp


def make(folder, task: str, split: str) -> None:
    path = manifest.task_dir(folder, task, split) / "manifest.json"
    path.parent.mkdir(parents=True)
    path.write_text("{}")


def test_missing_splits(tmp_path):
    both = ("train", "validation")
    assert prepared.missing_splits("mix", str(tmp_path), both) == ["train", "validation"]
    mixture = manifest.MixtureManifest(name="mix", tasks=("a", "b"), rates=(0.5, 0.5))
    manifest.write(mixture, manifest.mixture_path(tmp_path, "mix"))
    make(tmp_path, "a", "train")
    assert prepared.missing_splits("mix", str(tmp_path), both) == ["train", "validation"]
    make(tmp_path, "b", "train")
    assert prepared.missing_splits("mix", str(tmp_path), both) == ["validation"]


TASKS = """
from ul2tune.prepare.tasks import register_text_task

register_text_task(
    "notes", {files!r}, format="documents", vocabulary="bytes", objective="ul2",
    validation_fraction=0.3,
)
"""


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A task module and its text; the working directory, also of children."""
    (tmp_path / "own_tasks.py").write_text(TASKS.format(files=str(tmp_path / "*.txt")))
    (tmp_path / "notes.txt").write_text("\n\n".join(f"This is note {i}." for i in range(30)))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", ":".join(path for path in sys.path if path))
    return tmp_path


ASK = {"modules": ("own_tasks",), "data_dir": "data", "num_workers": 1}


def online(split: str = "train") -> str:
    return str(manifest.read_task("data", "notes", split).online)


@pytest.mark.slow
def test_a_child_prepares_what_is_missing_or_stale(project, capfd, caplog):
    modules_before = set(sys.modules)
    prepared.prepare_missing(mixture="notes", **ASK)
    assert "tensorflow" not in set(sys.modules) - modules_before
    assert manifest.read_task("data", "notes", "train").num_examples > 0
    first = online()
    capfd.readouterr()
    prepared.prepare_missing(mixture="notes", **ASK)
    assert capfd.readouterr().out == ""
    # Another task by the same name: of one split, then of the other, and then no more.
    tasks = project / "own_tasks.py"
    tasks.write_text(tasks.read_text().replace('"ul2"', '"ul2r"'))
    prepared.prepare_missing(mixture="notes", **ASK, resumes=True)
    assert "before these changed: module own_tasks. It is used as it is" in caplog.text
    assert online() == first
    prepared.prepare_missing(mixture="notes", **ASK, splits=("validation",))
    assert "before these changed: module own_tasks" in capfd.readouterr().out
    assert first == online() != online("validation")
    prepared.prepare_missing(mixture="notes", **ASK)
    assert "Preparing notes (train) in data" in capfd.readouterr().out
    assert online() == online("validation")
    prepared.prepare_missing(mixture="notes", **ASK)
    assert capfd.readouterr().out == ""


@pytest.mark.slow
def test_a_childs_failure_is_ours_and_its_limit_is_our_limit(project, capfd):
    (project / "bad.txt").write_bytes(b"\xff")
    message = "data lacks notes. Preparing it failed with exit status 1"
    with pytest.raises(ValueError, match=message):
        prepared.prepare_missing(mixture="notes", **ASK)
    assert "1 of 31 records are malformed" in capfd.readouterr().err
    prepared.prepare_missing(mixture="notes", **ASK, max_rejected_fraction=0.04)
    (project / "bad.txt").write_bytes(b"\xff\n\n\xff")
    message = r"before these changed: file .*/\*\.txt\. Preparing it failed with exit status 1"
    with pytest.raises(ValueError, match=message):
        prepared.prepare_missing(mixture="notes", **ASK, max_rejected_fraction=0.04)


@pytest.fixture
def stale(project):
    """Prepared data, as far as manifests go, of a task module that has changed."""
    make(project / "data", "notes", "train")
    old = stamp.make(("own_tasks",), ())
    mixture = manifest.MixtureManifest(
        name="notes", tasks=("notes",), rates=(1.0,), stamps={"train": old}
    )
    path = manifest.mixture_path("data", "notes")
    manifest.write(mixture, path)
    (project / "own_tasks.py").write_text("# changed")
    return path


def test_where_nothing_can_be_prepared_stale_data_is_used_with_a_warning(
    stale, monkeypatch, caplog
):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    prepared.prepare_missing(mixture="notes", **ASK, splits=("train",))
    assert "module own_tasks. It is used as it is: seqio is not installed here" in caplog.text


def test_other_processes_wait_until_stale_data_is_prepared_again(stale, monkeypatch):
    monkeypatch.setattr(prepared, "POLL_SECS", 0.01)
    ask = {"mixture": "notes", **ASK, "splits": ("train",), "process_index": 1}
    thread = threading.Thread(target=prepared.prepare_missing, kwargs=ask, daemon=True)
    thread.start()
    thread.join(timeout=0.5)
    assert thread.is_alive()
    manifest.write(manifest.read_mixture("data", "notes"), stale)
    thread.join(timeout=30)
    assert not thread.is_alive()
