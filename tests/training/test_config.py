"""What `RunConfig` refuses."""

from __future__ import annotations

import pytest

from ul2tune.training.config import RunConfig


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"train_steps": None}, "Set exactly one of TRAIN_STEPS"),
        ({"train_steps_relative": 5}, "Set exactly one of TRAIN_STEPS"),
        ({"model_dir": "gs://bucket/run"}, "Mount the bucket"),
        ({"log_period_steps": 0}, "RunConfig.log_period_steps = 0"),
        ({"seed": -1}, r"RunConfig.seed = -1 is not in \[0, 2\*\*32\)"),
        ({"seed": 2**32}, "RunConfig.seed = 4294967296 is not in"),
        ({"train_steps": 10**10}, "train_steps = 10000000000 must be below 2.* of tokens"),
        ({"num_microbatches": -1}, "RunConfig.num_microbatches = -1"),
    ],
)
def test_run_config_refuses(change, message):
    with pytest.raises(ValueError, match=message):
        RunConfig(**{"model_dir": "x", "train_steps": 1, **change})
