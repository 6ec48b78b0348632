"""What `ul2tune train` leaves of its configuration when a run is refused."""

from __future__ import annotations

import pytest

from ul2tune.cli.train import saved


def refuse(path, text):
    with pytest.raises(ValueError, match="no"), saved(text, path):
        raise ValueError("no")


def test_a_refused_first_run_leaves_no_configuration(tmp_path):
    refuse(tmp_path / "run" / "config.gin", "first")
    assert not (tmp_path / "run" / "config.gin").exists()


def test_a_refused_later_run_leaves_the_configuration_of_the_earlier(tmp_path):
    with saved("first", tmp_path / "config.gin"):
        pass
    refuse(tmp_path / "config.gin", "second")
    assert (tmp_path / "config.gin").read_text() == "first"


def test_a_run_that_has_trained_keeps_its_configuration(tmp_path):
    (tmp_path / "checkpoints").mkdir()
    refuse(tmp_path / "config.gin", "first")
    assert (tmp_path / "config.gin").read_text() == "first"
