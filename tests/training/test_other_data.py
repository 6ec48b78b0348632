"""What a run does about data that is not what it was, or not the model's."""

from __future__ import annotations

import dataclasses
import logging

import pytest

from tests.training import tiny
from ul2tune.training import run as run_lib

pytestmark = pytest.mark.usefixtures("one_program")
OTHER = "its streams start from the beginning"


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    path = tmp_path_factory.mktemp("data")
    tiny.write_data(path)
    return path


def test_rows_of_another_length_go_on_in_the_data(tmp_path, data_dir, caplog):
    """Lengths are not part of what a position means, the seed is."""
    first = tiny.arguments(tmp_path / "run", data_dir, train_steps=2, eval_period_steps=None)
    first["init"] = tiny.drawn(tiny.RUN_MODEL)
    run_lib.train(**first)
    longer = {"feature_lengths": {"inputs": 80, "targets": 48}}
    run = dataclasses.replace(first["run"], train_steps=3, allow_config_change=True)
    for data, fits, step in ((longer, True, 3), ({**longer, "seed": 5}, False, 4)):
        caplog.clear()
        with caplog.at_level(logging.WARNING, "ul2tune"):
            run_lib.train(
                **first
                | {
                    "data": dataclasses.replace(first["data"], **data),
                    "run": dataclasses.replace(run, train_steps=step),
                }
            )
        assert "Resuming with another configuration: data/" in caplog.text
        assert (OTHER not in caplog.text) == fits


def test_ids_without_a_row_in_the_model_are_refused(tmp_path, data_dir):
    """See test_ids.py. They would train on nothing, with losses that look better."""
    arguments = tiny.arguments(tmp_path, data_dir)
    small = dataclasses.replace(arguments["model"], vocab_size=40)
    with pytest.raises(ValueError, match=r"'mix' has \d+ ids but the model 40 rows"):
        run_lib.train(**{**arguments, "model": small})
