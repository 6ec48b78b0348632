from __future__ import annotations

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ul2tune.optim.schedules import ScheduleConfig


def rates(config: ScheduleConfig, *steps: int) -> list[float]:
    return [float(config(step)) for step in steps]


def test_constant_with_warmup():
    config = ScheduleConfig(learning_rate=0.5, warmup_steps=10)
    assert rates(config, 0, 1, 5, 10, 11, 10**6) == pytest.approx([0, 0.05, 0.25, 0.5, 0.5, 0.5])
    assert rates(ScheduleConfig(learning_rate=0.5), 0, 7) == [0.5, 0.5]


def test_rsqrt_is_t5s_pretraining_schedule():
    config = ScheduleConfig(name="rsqrt", learning_rate=1.0)
    assert rates(config, 0, 9_999, 10_000) == pytest.approx([0.01] * 3)
    assert rates(config, 40_000, 1_000_000) == pytest.approx([0.005, 0.001])
    short = ScheduleConfig(name="rsqrt", learning_rate=2.0, timescale_steps=4, warmup_steps=2)
    assert rates(short, 0, 1, 2, 4, 16) == pytest.approx([0, 0.5, 1, 1, 0.5])


def test_linear():
    config = ScheduleConfig(
        name="linear", learning_rate=1.0, final_learning_rate=0.2, warmup_steps=10, total_steps=50
    )
    assert rates(config, 5, 10, 30, 50, 99) == pytest.approx([0.5, 1.0, 0.6, 0.2, 0.2])


def test_cosine_is_ul2rs():
    config = ScheduleConfig(
        name="cosine", learning_rate=1e-4, final_learning_rate=1e-6, total_steps=100
    )
    quarter = 1e-6 + (1e-4 - 1e-6) * (1 + math.cos(math.pi / 4)) / 2
    assert rates(config, 0, 25, 100, 200) == pytest.approx([1e-4, quarter, 1e-6, 1e-6], rel=1e-4)


def test_warmup_stable_decay():
    config = ScheduleConfig(
        name="wsd", learning_rate=1.0, warmup_steps=10, total_steps=100, decay_steps=20
    )
    expected = [0, 0.5, 1, 1, 1, 0.5, 0, 0]
    assert rates(config, 0, 5, 10, 50, 80, 90, 100, 150) == pytest.approx(expected, abs=1e-6)


def test_step_offset_moves_the_origin_either_way():
    config = ScheduleConfig(name="linear", learning_rate=1.0, total_steps=10, step_offset=100)
    assert rates(config, 0, 100, 105, 110) == pytest.approx([1, 1, 0.5, 0])
    going_on = ScheduleConfig(name="rsqrt", learning_rate=1.0, step_offset=-1_000_000)
    assert rates(going_on, 0, 1_250_000 - 1_000_000) == pytest.approx([1e-3, 1 / math.sqrt(1.25e6)])


def test_works_under_jit_in_float32():
    config = ScheduleConfig(name="cosine", learning_rate=1.0, total_steps=7, warmup_steps=3)
    steps = jnp.arange(9, dtype=jnp.int32)
    traced = jax.jit(jax.vmap(config))(steps)
    assert traced.dtype == config(0).dtype == jnp.float32
    np.testing.assert_allclose(traced, [config(int(step)) for step in steps], atol=1e-7)


BASE = {
    "constant": {},
    "rsqrt": {"timescale_steps": 5},
    "linear": {"total_steps": 20},
    "cosine": {"total_steps": 20},
    "wsd": {"total_steps": 20, "decay_steps": 8},
}
PERTURBED = {
    "learning_rate": 0.5,
    "warmup_steps": 4,
    "timescale_steps": 9,
    "total_steps": 30,
    "decay_steps": 4,
    "final_learning_rate": 0.3,
    "step_offset": 3,
}


@pytest.mark.parametrize("name", BASE)
def test_every_field_changes_the_rate_or_is_refused(name):
    base = ScheduleConfig(name=name, learning_rate=1.0, warmup_steps=2, **BASE[name])
    steps = jnp.arange(40)
    default = jax.vmap(base)(steps)
    fields = {field.name for field in dataclasses.fields(ScheduleConfig)} - {"name"}
    assert fields == PERTURBED.keys()
    for field, value in PERTURBED.items():
        try:
            changed = dataclasses.replace(base, **{field: value})
        except ValueError as error:
            assert f"ScheduleConfig.{field} = {value} has no meaning" in str(error)  # noqa: PT017
            continue
        assert jnp.abs(jax.vmap(changed)(steps) - default).max() > 1e-2, field


def test_the_names_are_different_schedules():
    steps = jnp.arange(40)
    curves = [
        jax.vmap(ScheduleConfig(name=name, learning_rate=1.0, **BASE[name]))(steps) for name in BASE
    ]
    for i, first in enumerate(curves):
        for second in curves[:i]:
            assert jnp.abs(first - second).max() > 0.1


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"name": "exponential"}, "'exponential' is unknown; use one of constant, rsqrt"),
        ({"total_steps": 5}, "total_steps = 5 has no meaning for the 'constant' schedule"),
        ({"name": "cosine"}, "'cosine' .* ScheduleConfig.total_steps: .* SCHEDULE_STEPS to the"),
        ({"name": "wsd", "total_steps": 9}, "needs ScheduleConfig.decay_steps: .* set DECAY_STEPS"),
        (
            {"name": "wsd", "total_steps": 9, "decay_steps": 5, "warmup_steps": 5},
            r"= 9 is shorter than warmup_steps = 5 and decay_steps = 5: .* WARMUP_STEPS or DECAY",
        ),
        (
            {"name": "linear", "total_steps": 9, "warmup_steps": 10},
            r"total_steps = 9 is shorter than warmup_steps = 10: .* set a smaller WARMUP_STEPS\.",
        ),
        ({"name": "cosine", "total_steps": 0}, "total_steps must be at least 1"),
        ({"learning_rate": -1.0}, "learning rates must be numbers that are not negative"),
        ({"learning_rate": math.nan}, "learning rates must be numbers"),
        ({"name": "linear", "total_steps": 9, "final_learning_rate": math.inf}, "must be numbers"),
        ({"warmup_steps": -1}, "warmup_steps must not be negative"),
        ({"name": "rsqrt", "timescale_steps": 0}, "timescale_steps must be at least 1"),
    ],
)
def test_wrong_configurations_are_refused(values, message):
    with pytest.raises(ValueError, match=message):
        ScheduleConfig(**values)
