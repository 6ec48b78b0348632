"""Data that is missing is prepared by a child process, and only what is missing."""

from __future__ import annotations

import sys

import pytest

from ul2tune.cli import prepared
from ul2tune.data import manifest


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


@pytest.mark.slow
def test_a_child_prepares_and_its_failure_is_ours(tmp_path, monkeypatch, capfd):
    (tmp_path / "own_tasks.py").write_text(
        "from ul2tune.prepare.tasks import register_text_task\n"
        f"register_text_task('notes', {str(tmp_path / '*.txt')!r}, format='documents',"
        " vocabulary='bytes', objective='ul2', validation_fraction=0.3)\n"
    )
    (tmp_path / "notes.txt").write_text("\n\n".join(f"This is note {i}." for i in range(30)))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", ":".join(path for path in sys.path if path))
    ask = {"modules": ("own_tasks",), "data_dir": str(tmp_path / "data"), "num_workers": 1}
    modules_before = set(sys.modules)
    prepared.prepare_missing(mixture="notes", **ask)
    assert "tensorflow" not in set(sys.modules) - modules_before
    assert manifest.read_task(tmp_path / "data", "notes", "train").num_examples > 0
    capfd.readouterr()
    prepared.prepare_missing(mixture="notes", **ask)
    assert capfd.readouterr().out == ""
    with pytest.raises(ValueError, match="preparing it failed with exit status 1"):
        prepared.prepare_missing(mixture="nots", **ask)
    assert "nots" in capfd.readouterr().err
