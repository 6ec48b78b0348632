"""Files that cannot be written do not hide what went wrong first."""

from __future__ import annotations

import dataclasses

import pytest

from tests.training import tiny
from ul2tune.training import run as run_lib
from ul2tune.training.metrics import NonFiniteLossError


def test_a_loss_that_is_not_finite_is_told_without_its_file(tmp_path):
    tiny.write_data(tmp_path / "data")
    for step in range(1, 7):
        (tmp_path / f"run/nonfinite-step-{step}.json").mkdir(parents=True)
    bad = {"name": "adamw", "schedule": dataclasses.replace(tiny.SCHEDULE, learning_rate=3e37)}
    arguments = tiny.arguments(tmp_path / "run", tmp_path / "data", optimizer=bad)
    with pytest.raises(
        NonFiniteLossError,
        match=r"Step \d+ is not finite.* could not be written to .*json \(Is a directory\)\. Lower",
    ):
        run_lib.train(**arguments, init=tiny.drawn(tiny.RUN_MODEL))
