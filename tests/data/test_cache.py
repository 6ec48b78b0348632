"""Where caches are, and what is said where they cannot be."""

from __future__ import annotations

from pathlib import Path

import pytest

from ul2tune.data import cache
from ul2tune.data.documents import FileCorpus
from ul2tune.data.vocab_training import VocabularyConfig, trained_vocabulary


def _no_home() -> Path:
    raise RuntimeError("Could not determine home directory.")


def test_the_variable_then_the_users_cache(monkeypatch):
    monkeypatch.delenv(cache.VARIABLE, raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setenv("HOME", "/nowhere/me")
    assert cache.folder() == Path("/nowhere/me/.cache/ul2tune")
    monkeypatch.setenv("XDG_CACHE_HOME", "/fast")
    assert cache.folder() == Path("/fast/ul2tune")
    monkeypatch.setenv(cache.VARIABLE, "/mine")
    assert cache.folder() == Path("/mine")


def test_a_user_without_a_home_is_asked_for_the_variable(monkeypatch):
    """Its number is in no list of users, as in containers."""
    for name in (cache.VARIABLE, "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(Path, "home", _no_home)
    with pytest.raises(ValueError, match=r"no home folder.*set UL2TUNE_CACHE_DIR"):
        cache.folder()


def test_a_cache_that_cannot_be_written_is_said_before_the_work(tmp_path, monkeypatch, capsys):
    (tmp_path / "text.txt").write_text("some words\n" * 100)
    (tmp_path / "file").write_text("")
    monkeypatch.setenv(cache.VARIABLE, str(tmp_path / "file"))
    with pytest.raises(ValueError, match=r"cannot be written \(Not a directory\): set UL2TUNE_CA"):
        trained_vocabulary(
            FileCorpus(files=str(tmp_path / "text.txt")), VocabularyConfig(pieces=300)
        )
    assert "Trained" not in capsys.readouterr().err
