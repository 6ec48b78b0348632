"""Model configurations as checkpoints record them, and back."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.models import decoder_examples, t5gemma_examples
from tests.training import tiny
from ul2tune.checkpoints import description
from ul2tune.checkpoints.streaming import StepWriter


def recorded(folder: Path, model: Any) -> Path:
    writer = StepWriter(folder / "checkpoints" / "0")
    writer.finish({"config": {"model": model}})
    return writer.step_dir


@pytest.mark.parametrize(
    "config",
    [tiny.MODEL, decoder_examples.gemma(), t5gemma_examples.first(), t5gemma_examples.second()],
)
def test_a_model_comes_back_as_it_was_recorded(config, tmp_path):
    described = description.describe(config)
    assert json.loads(json.dumps(described)) == described
    assert description.model_of(recorded(tmp_path, described)) == config


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"class": "T6Config"}, "another version of ul2tune: there is no class 'T6Config' here"),
        ({"d_mode": 3}, "another version of ul2tune: .*'d_mode'"),
    ],
)
def test_models_of_other_versions_are_refused(changes, message, tmp_path):
    described = description.describe(tiny.MODEL) | changes
    with pytest.raises(ValueError, match=message):
        description.model_of(recorded(tmp_path, described))
