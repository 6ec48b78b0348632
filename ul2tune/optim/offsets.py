"""Offsets of the optimiser's clocks, checked where a run starts."""

from __future__ import annotations

from typing import Any

from ul2tune.optim.optimizer import OptimizerConfig


def check_step_offsets(config: OptimizerConfig, opt_state: Any) -> None:
    """Refuses offsets beyond the updates that an optimiser's first state has behind it.

    Adafactor would keep no average and a schedule would stand at its start, at rate 0 if it warms
    up, until as many updates are done.

    Args:
      config: the recipe.
      opt_state: the state that the run starts with: new, or carried over from another run.

    Raises:
      ValueError: for such an offset.
    """
    count = int(opt_state[-1].count)  # of `descend`, the last stage of every optimiser
    for name, offset in (
        ("AdafactorConfig.step_offset", config.adafactor.step_offset),
        ("ScheduleConfig.step_offset", config.schedule.step_offset),
    ):
        if offset > count:
            raise ValueError(
                f"{name} = {offset} lies beyond the {count} updates that the optimiser's state "
                f"starts with, so nothing would move on for {offset - count} updates. T5X counts "
                "the initial checkpoint's steps, here a new state counts from 0: leave it 0, or "
                "carry the other run's state over (from_checkpoint.keep_optimizer = True)."
            )
