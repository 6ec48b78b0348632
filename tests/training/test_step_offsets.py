"""Where a run starts, the clocks of its optimiser are compared with its steps."""

import logging

import pytest

from tests.training import tiny
from ul2tune.checkpoints import initialize
from ul2tune.optim.schedules import ScheduleConfig
from ul2tune.training import run

pytestmark = pytest.mark.usefixtures("one_program")


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    path = tmp_path_factory.mktemp("data")
    tiny.write_data(path)
    return path


def test_a_new_run_refuses_an_offset_beyond_its_first_update(tmp_path, data_dir):
    schedule = ScheduleConfig(learning_rate=0.1, step_offset=1_000_000)
    arguments = tiny.arguments(tmp_path / "run", data_dir, optimizer={"schedule": schedule})
    with pytest.raises(ValueError, match=r"step_offset = 1000000 lies beyond the 0 updates"):
        run.train(**arguments)


def arguments(model_dir, data_dir, *, total_steps: int, **settings):
    schedule = ScheduleConfig(name="linear", learning_rate=0.1, total_steps=total_steps)
    settings = {"eval_period_steps": None, **settings}
    return tiny.arguments(model_dir, data_dir, optimizer={"schedule": schedule}, **settings)


def test_a_run_names_a_schedule_that_ends_with_other_steps(tmp_path, data_dir, caplog, monkeypatch):
    def warnings(values, init=None) -> str:
        caplog.clear()
        with caplog.at_level(logging.WARNING, "ul2tune.optim"):
            run.train(**values, init=init)
        return caplog.text

    first, second = tmp_path / "first", tmp_path / "second"
    cut = warnings(arguments(first, data_dir, total_steps=6, train_steps=2))
    assert "total_steps = 6, but at this run's last step the optimiser will have done 2" in cut

    # From here on only the starts matter.
    monkeypatch.setattr(run, "loop", lambda parts, state, frozen, at: state)
    assert not warnings(arguments(tmp_path / "fresh", data_dir, total_steps=6, train_steps=6))
    assert not warnings(arguments(first, data_dir, total_steps=6, train_steps=6))  # resumes at 2

    absolute = arguments(second, data_dir, total_steps=6, train_steps=6)
    new = initialize.from_checkpoint(str(first))
    assert "total_steps = 6, but at this run's last step the optimiser will have done 4" in (
        warnings(absolute, new)
    )
    kept = initialize.from_checkpoint(str(first), keep_optimizer=True)
    assert not warnings(absolute, kept)
    relative = arguments(second, data_dir, total_steps=4, train_steps_relative=4)
    assert not warnings(relative, new)
