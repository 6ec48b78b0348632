"""A checkpoint of another vocabulary is refused before anything of it is read."""

from __future__ import annotations

import jax.numpy as jnp
import pytest

from tests.checkpoints import saving
from tests.decoding import tiny
from tests.evaluation import prepared
from ul2tune.checkpoints import vocabulary
from ul2tune.evaluation.infer import InferConfig, infer
from ul2tune.evaluation.run import EvalConfig, evaluate
from ul2tune.sharding import MeshConfig


@pytest.fixture
def model_dir(tmp_path) -> str:
    """It has no parameters: where the vocabulary is allowed, these are what is missed next."""
    other = {"kind": "sentencepiece", "sha256": "0123"}
    saving.save(tmp_path / "model", 7, {"step": jnp.int32(7)}, {vocabulary.KEY: other})
    return str(tmp_path / "model")


def ask_evaluate(model_dir, folder, **options):
    data_dir = str(prepared.write(folder / f"data{len(options)}"))
    config = EvalConfig(inputs_length=64, **options)
    output = str(folder / "out")
    evaluate(tiny.MODEL, "instructions", data_dir, model_dir, MeshConfig(), output, config)


def ask_infer(model_dir, folder, **options):
    (folder / "prompts.txt").write_text("hello\n")
    paths = (str(folder / "prompts.txt"), str(folder / "out.jsonl"))
    config = InferConfig(**options)
    infer(tiny.MODEL, prepared.VOCABULARY, model_dir, MeshConfig(), *paths, config)


@pytest.mark.parametrize(
    ("ask", "setting"),
    [
        (ask_evaluate, "EvalConfig.allow_other_vocabulary"),
        (ask_infer, "InferConfig.allow_other_vocabulary"),
    ],
)
def test_another_vocabulary_is_refused_unless_allowed(model_dir, tmp_path, ask, setting):
    with pytest.raises(ValueError, match=rf"7 was trained with another vocabulary .*{setting}"):
        ask(model_dir, tmp_path)
    with pytest.raises(ValueError, match="7 holds no array"):
        ask(model_dir, tmp_path, allow_other_vocabulary=True)
