"""Step offsets in T5X's convention, which would stop our clocks; schedules of another length."""

import logging

import jax.numpy as jnp
import pytest

from ul2tune.optim import optimizer
from ul2tune.optim.adafactor import AdafactorConfig
from ul2tune.optim.clocks import check_step_offsets, warn_of_schedule_end
from ul2tune.optim.optimizer import OptimizerConfig
from ul2tune.optim.schedules import ScheduleConfig

PARAMS, AXES = {"w": jnp.ones((4, 4))}, {"w": ("embed", "mlp")}


def config(*, adafactor=0, schedule=0, **more) -> OptimizerConfig:
    return OptimizerConfig(
        adafactor=AdafactorConfig(step_offset=adafactor),
        schedule=ScheduleConfig(learning_rate=0.1, step_offset=schedule),
        **more,
    )


def state(chosen: OptimizerConfig, count: int):
    """As carried over from a run of `count` updates."""
    fresh = optimizer.make(chosen, PARAMS, AXES).tx.init(PARAMS)
    return tuple(
        stage._replace(count=jnp.int32(count)) if "count" in stage._fields else stage
        for stage in fresh
    )


@pytest.mark.parametrize("more", [{}, {"max_grad_norm": 1.0}])
def test_an_offset_may_be_what_the_state_has_behind_it(more):
    for chosen, count in (
        (config(**more), 0),
        (config(adafactor=1000, schedule=1000, **more), 1000),
        (config(schedule=-1_000_000, **more), 0),
    ):
        check_step_offsets(chosen, state(chosen, count))


@pytest.mark.parametrize(
    ("fields", "count", "message"),
    [
        ({"adafactor": 1000}, 0, r"AdafactorConfig.step_offset = 1000 lies beyond the 0 updates"),
        (
            {"schedule": 1000},
            0,
            r"ScheduleConfig.step_offset = 1000 .* stand still for 1000 updates",
        ),
        ({"schedule": 1001}, 1000, r"beyond the 1000 updates .* for 1 updates"),
    ],
)
def test_offsets_in_the_future_are_refused(fields, count, message):
    chosen = config(**fields)
    with pytest.raises(ValueError, match=message):
        check_step_offsets(chosen, state(chosen, count))


def test_every_optimizer_counts_its_updates_last():
    for name in ("adafactor", "adamw", "lion", "muon"):
        schedule = ScheduleConfig(learning_rate=0.1, step_offset=5)
        chosen = OptimizerConfig(name=name, schedule=schedule)
        with pytest.raises(ValueError, match="beyond the 0 updates"):
            check_step_offsets(chosen, optimizer.make(chosen, PARAMS, AXES).tx.init(PARAMS))
        check_step_offsets(chosen, state(chosen, 5))


def warning(caplog, *, total=100, offset=0, count=0, steps_left=100, name="linear") -> str:
    """What is logged for such a schedule, state and rest of the run."""
    lengths = {} if name == "constant" else {"total_steps": total}
    lengths |= {"decay_steps": 5} if name == "wsd" else {}
    schedule = ScheduleConfig(name=name, step_offset=offset, **lengths)
    chosen = OptimizerConfig(name="adamw", schedule=schedule, max_grad_norm=1.0)
    caplog.clear()
    with caplog.at_level(logging.WARNING, "ul2tune"):
        warn_of_schedule_end(schedule, state(chosen, count), steps_left)
    assert len(caplog.messages) <= 1
    return "".join(caplog.messages)


def test_a_schedule_that_ends_with_the_run_is_not_mentioned(caplog):
    assert not warning(caplog)
    assert not warning(caplog, count=60, steps_left=40)  # resumed, or with the state kept
    assert not warning(caplog, offset=60, count=60)
    assert not warning(caplog, total=90)  # a short rest at its end
    assert not warning(caplog, name="constant", steps_left=7)


@pytest.mark.parametrize("name", ["linear", "cosine", "wsd"])
def test_a_schedule_that_ends_beyond_or_before_the_run_is(name, caplog):
    beyond = warning(caplog, name=name, total=32, steps_left=12)
    assert beyond.startswith("ScheduleConfig.total_steps = 32, but at this run's last step the")
    assert "will have done 12 updates: the learning rate does not come down to its end" in beyond
    assert "start a run with total_steps = 12 (SCHEDULE_STEPS" in beyond
    before = warning(caplog, name=name, total=89)
    assert "will have done 100 updates: " in before
    assert "stays at its end for the last 11 of them. Unless you want that, " in before
    assert "start a run with total_steps = 100 (SCHEDULE_STEPS" in before


def test_the_schedules_offset_counts_too(caplog):
    found = warning(caplog, offset=-50, total=100, steps_left=100)
    assert "150 updates after step_offset = -50: " in found
    assert "for the last 50 of them. Unless you want that, " in found
    assert "total_steps = 150 (SCHEDULE_STEPS" in found
    found = warning(caplog, offset=60, count=60, steps_left=40)
    assert "total_steps = 40 (SCHEDULE_STEPS" in found
