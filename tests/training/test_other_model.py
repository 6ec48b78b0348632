"""A run that starts from a checkpoint of another model."""

from __future__ import annotations

import dataclasses

import pytest

from tests.checkpoints import saving
from tests.models import examples
from tests.training import tiny
from ul2tune.checkpoints import initialize
from ul2tune.checkpoints.description import describe
from ul2tune.training.run import train


def start(folder, **changes) -> None:
    """Starts a run from a checkpoint of a model with these changes."""
    model = dataclasses.replace(tiny.RUN_MODEL, **changes)
    params = examples.params(model)
    saving.save(folder / "first", 0, {"params": params}, {"config": describe({"model": model})})
    tiny.write_data(folder / "data")
    init = initialize.from_checkpoint(str(folder / "first"))
    train(**tiny.arguments(folder / "run", folder / "data", train_steps=1), init=init)


def test_other_sizes_are_an_error_without_warnings(tmp_path, caplog):
    with pytest.raises(ValueError, match="Use the model configuration it was trained with"):
        start(tmp_path, d_model=32, d_ff=64, num_heads=2, activation="relu")
    assert "this model has" not in caplog.text
    assert not (tmp_path / "run").exists()


def test_another_function_of_the_same_sizes_is_a_warning(tmp_path, caplog):
    start(tmp_path, relative_max_distance=64)
    assert "was trained with relative_max_distance = 64; this model has 128." in caplog.text
