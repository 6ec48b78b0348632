"""A run does not start with an offset in T5X's convention."""

import pytest

from tests.training import tiny
from ul2tune.optim.schedules import ScheduleConfig
from ul2tune.training import run


def test_a_new_run_refuses_an_offset_beyond_its_first_update(tmp_path):
    tiny.write_data(tmp_path / "data")
    schedule = ScheduleConfig(learning_rate=0.1, step_offset=1_000_000)
    arguments = tiny.arguments(
        tmp_path / "run", tmp_path / "data", optimizer={"schedule": schedule}
    )
    with pytest.raises(ValueError, match=r"step_offset = 1000000 lies beyond the 0 updates"):
        run.train(**arguments)
