"""The optimiser's clocks, checked where a run starts: their offsets, and the schedule's end."""

from __future__ import annotations

import logging
from typing import Any

from ul2tune.optim.descent import updates_done
from ul2tune.optim.optimizer import OptimizerConfig
from ul2tune.optim.schedules import ScheduleConfig

log = logging.getLogger(__name__)
# A run may spend this share of its updates after the schedule's end without a warning.
_MAX_SHARE_AFTER_END = 0.1


def check_step_offsets(config: OptimizerConfig, opt_state: Any) -> None:
    """Refuses offsets beyond the updates that an optimiser's first state has behind it.

    Until as many updates are done, Adafactor would keep no average and a schedule would stay at its
    start (at rate 0 if it warms up).

    Args:
      config: the recipe.
      opt_state: the state that the run starts with: new, or carried over from another run.

    Raises:
      ValueError: for such an offset.
    """
    count = int(updates_done(opt_state))
    for name, offset in (
        ("AdafactorConfig.step_offset", config.adafactor.step_offset),
        ("ScheduleConfig.step_offset", config.schedule.step_offset),
    ):
        if offset > count:
            raise ValueError(
                f"{name} = {offset} lies beyond the {count} updates that the optimiser's state "
                f"starts with, so it would stand still for {offset - count} updates. T5X counts "
                "the initial checkpoint's steps, here a new state counts from 0: leave it 0, or "
                "carry the other run's state over (from_checkpoint.keep_optimizer = True)."
            )


def warn_of_schedule_end(schedule: ScheduleConfig, opt_state: Any, steps_left: int) -> None:
    """Warns where the schedule ends beyond the run's last step, or clearly before it.

    Only a warning, as either may be meant. A schedule counts the updates of the optimiser's state,
    TRAIN_STEPS the steps of an initial checkpoint too: with a new state there they disagree.

    Args:
      schedule: of the optimiser.
      opt_state: the state that the run starts or resumes with.
      steps_left: how many updates it is to do now.
    """
    total = schedule.total_steps
    if total is None:
        return
    done = int(updates_done(opt_state)) + steps_left - schedule.step_offset
    if total > done:
        effect = "the learning rate does not come down to its end"
    elif total < (1 - _MAX_SHARE_AFTER_END) * done:
        effect = f"the learning rate stays at its end for the last {done - total} of them"
    else:
        return
    log.warning(
        "ScheduleConfig.total_steps = %d, but at this run's last step the optimiser will have done "
        "%d updates%s: %s. Unless you want that, start a run with total_steps = %d (SCHEDULE_STEPS "
        "of the shipped optimiser files).",
        total,
        done,
        f" after step_offset = {schedule.step_offset}" if schedule.step_offset else "",
        effect,
        done,
    )
