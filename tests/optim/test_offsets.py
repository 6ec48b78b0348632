"""Step offsets in T5X's convention, which would stop our clocks."""

import jax.numpy as jnp
import pytest

from ul2tune.optim import optimizer
from ul2tune.optim.adafactor import AdafactorConfig
from ul2tune.optim.offsets import check_step_offsets
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
            r"ScheduleConfig.step_offset = 1000 .* nothing .* for 1000 updates",
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
