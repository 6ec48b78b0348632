"""A checkpoint of another model: of other sizes an error and nothing else, else a warning."""

from __future__ import annotations

import dataclasses

import pytest

from tests.checkpoints import saving
from tests.decoding import tiny
from tests.evaluation.test_checkpoint_vocabulary import ask_evaluate, ask_infer
from tests.models import examples
from ul2tune.checkpoints.description import describe


def save(folder, **changes) -> str:
    model = dataclasses.replace(tiny.MODEL, **changes)
    params = examples.params(model)
    saving.save(folder / "model", 7, {"params": params}, {"config": describe({"model": model})})
    return str(folder / "model")


@pytest.mark.parametrize("ask", [ask_evaluate, ask_infer])
def test_other_sizes_are_an_error_without_warnings(tmp_path, caplog, ask):
    model_dir = save(tmp_path, d_model=32, d_ff=64, num_heads=2, activation="relu")
    with pytest.raises(ValueError, match="Use the model configuration it was trained with"):
        ask(model_dir, tmp_path)
    assert "this model has" not in caplog.text


@pytest.mark.parametrize("ask", [ask_evaluate, ask_infer])
def test_another_function_of_the_same_sizes_is_a_warning(tmp_path, caplog, ask):
    model_dir = save(tmp_path, relative_max_distance=64)
    ask(model_dir, tmp_path)
    assert "was trained with relative_max_distance = 64; this model has 128." in caplog.text
