"""Evaluation inside a training run."""

from __future__ import annotations

import dataclasses
import json

import pytest

from tests.evaluation import prepared
from tests.training import tiny
from ul2tune.cli import gin_config
from ul2tune.cli.train import ROOTS
from ul2tune.decoding.sampling import SamplingConfig
from ul2tune.evaluation.hook import EvaluationHook
from ul2tune.evaluation.run import EvalConfig, evaluate
from ul2tune.training import run as training
from ul2tune.training.run import train

pytestmark = pytest.mark.usefixtures("one_program")
EVAL = EvalConfig(
    inputs_length=64,
    length_buckets=(64,),
    batch_size=8,
    sampling=SamplingConfig(max_decode_length=4),
    metrics=("token_f1",),
    rank_choices=False,
    allow_other_vocabulary=True,  # the ids of tiny.write_data stand for no words
)


@pytest.mark.parametrize("num_beams", [1, 3])
def test_a_run_evaluates_as_it_goes(tmp_path, num_beams):
    config = dataclasses.replace(
        EVAL, sampling=SamplingConfig(max_decode_length=4, num_beams=num_beams)
    )
    tiny.write_data(tmp_path / "data")
    prepared.write(tmp_path / "data")
    model_dir = tmp_path / "run"
    arguments = tiny.arguments(model_dir, tmp_path / "data", train_steps=5)
    hook = EvaluationHook(3, ("instructions",), str(tmp_path / "data"), config)
    train(**arguments, hooks=(hook,), init=tiny.drawn(tiny.RUN_MODEL))
    lines = [json.loads(line) for line in (model_dir / "metrics.jsonl").read_text().splitlines()]
    logged = {line["step"]: line for line in lines if "eval/instructions/token_f1" in line}
    folders = model_dir / "evaluation" / "instructions"
    assert sorted(logged) == [3, 5]
    assert sorted(path.name for path in folders.iterdir()) == ["step_3", "step_5"]
    # What the command says of the last checkpoint.
    mesh = arguments["mesh"]
    table = evaluate(
        arguments["model"], "instructions", str(tmp_path / "data"), str(model_dir), mesh,
        str(tmp_path / "out"), config,
    )  # fmt: skip
    assert table["sampling"]["num_beams"] == num_beams
    assert logged[5]["eval/instructions/token_f1"] == table["overall"]["token_f1"]
    written = (folders / "step_5" / "predictions.jsonl").read_bytes()
    assert written == (tmp_path / "out" / "predictions.jsonl").read_bytes()


def test_a_mixture_in_another_vocabulary_stops_the_run_before_its_first_step(tmp_path):
    tiny.write_data(tmp_path)
    prepared.write(tmp_path)
    strict = dataclasses.replace(EVAL, allow_other_vocabulary=False)
    hook = EvaluationHook(3, ("instructions",), str(tmp_path), strict)
    with pytest.raises(ValueError, match="'instructions' was prepared with another vocabulary"):
        train(**tiny.arguments(tmp_path / "run", tmp_path, train_steps=5), hooks=(hook,))
    assert not (tmp_path / "run" / "metrics.jsonl").exists()
    hook.check_vocabulary(prepared.VOCABULARY)


@pytest.mark.parametrize(
    ("mixtures", "error", "message"),
    [
        (
            ("instruction",),
            FileNotFoundError,
            r"^EvaluationHook\.mixtures: 'instruction': .*ul2tune prepare",
        ),
        ("instructions", ValueError, "must be a list of different names, got 'instructions'"),
        ((), ValueError, "must be a list of different names"),
        (("instructions",) * 2, ValueError, "must be a list of different names"),
    ],
)
def test_mistakes_show_before_the_first_step(tmp_path, mixtures, error, message):
    prepared.write(tmp_path)
    with pytest.raises(error, match=message):
        EvaluationHook(3, mixtures, str(tmp_path), EVAL)


def test_text_without_prompts_is_refused_by_the_setting_that_names_it(tmp_path):
    tiny.write_data(tmp_path)
    with pytest.raises(
        ValueError, match=r"^EvaluationHook\.mixtures: 'mix': Task 'text' holds raw"
    ):
        EvaluationHook(3, ("mix",), str(tmp_path), EVAL)


def test_the_shipped_file_makes_one(tmp_path):
    prepared.write(tmp_path)
    files = ["recipes/demo_tune.gin", "hooks/evaluate.gin"]
    flags = [
        ("HOOK_MIXTURES", "('instructions',)"),
        ("HOOK_PERIOD", "7"),
        ("DATA_DIR", repr(str(tmp_path))),
    ]
    config = gin_config.load(files, flags, roots=ROOTS)
    (hook,) = config.arguments(training.train)["hooks"]
    assert isinstance(hook, EvaluationHook)
    assert hook.period_steps == 7
