"""What a metric of the user's may do to answers that took hours: nothing."""

from __future__ import annotations

import json
import os
import re

import jax
import pytest

from tests.decoding import tiny
from tests.evaluation import prepared
from ul2tune import sharding
from ul2tune.data.seqio_metrics import SeqioMetrics
from ul2tune.decoding.sampling import SamplingConfig
from ul2tune.evaluation import preflight, report, run
from ul2tune.evaluation.run import EvalConfig
from ul2tune.named_function import NamedFunction

CONFIG = EvalConfig(
    inputs_length=64,
    sampling=SamplingConfig(max_decode_length=3),
    metrics=("exact_match",),
    rank_choices=False,
)


def only_of_the_expected(targets, predictions):
    return {"yes": [{"no": 0, "yes": 1, "": 2}[text] for text in predictions].count(1)}


def only_of_one_letter(text, example, is_target):
    (letter,) = text[:1]
    return {letter: text} if is_target else {"n": 0, "y": 1}[letter]


def length(targets, predictions):
    return {"length": len(predictions)}


OF_TEXTS = {"metrics": (f"{__name__}.only_of_the_expected",)}
AS_IN_SEQIO = {
    "seqio_metrics": SeqioMetrics(
        postprocess=NamedFunction(name=f"{__name__}:only_of_one_letter"),
        of_predictions=(NamedFunction(name=f"{__name__}:length"),),
        of_scores=(),
    )
}


@pytest.mark.parametrize(
    ("scoring", "message"),
    [
        (OF_TEXTS, r" by its metric function '.*\.only_of_the_expected': KeyError: "),
        (AS_IN_SEQIO, ": its postprocess_fn '.*:only_of_one_letter' fails on the answer "),
    ],
)
def test_answers_are_written_before_metrics_see_them(scoring, message, tmp_path):
    data = prepared.write(tmp_path / "data", **scoring)
    eval_set = run.load_set("instructions", str(data), CONFIG)
    preflight.check_metrics(eval_set, CONFIG.metrics)
    mesh = sharding.make_mesh(sharding.MeshConfig(fsdp=1), jax.devices()[:1])
    predictor = run.make_predictor(tiny.MODEL, tiny.params(), mesh, eval_set, CONFIG)
    output = tmp_path / "out"
    output.mkdir()
    (output / "metrics.json").write_text("of earlier answers")
    where = re.escape(f" All answers are in {output / 'predictions.jsonl'}.")
    expected = rf"^Task 'first' cannot be scored{message}.*[^.]\.{where}$"
    with pytest.raises(ValueError, match=expected):
        run.evaluate_set(predictor, eval_set, CONFIG, str(output), {})
    assert [path.name for path in output.iterdir()] == ["predictions.jsonl"]
    lines = (output / "predictions.jsonl").read_text(encoding="utf-8").splitlines()
    said = [answer.text for answer in run.answer_all(predictor, eval_set, CONFIG)]
    assert any(said)
    assert [json.loads(line)["prediction"] for line in lines] == said


@pytest.mark.parametrize("full", [False, True])
def test_no_table_stands_beside_answers_that_are_not_its_own(full, tmp_path, monkeypatch):
    """A kill as they take their name leaves none, a full disk the earlier answers and theirs."""
    earlier = {"predictions.jsonl": "earlier", "metrics.json": "of earlier answers"}
    for name, text in earlier.items():
        (tmp_path / name).write_text(text)
    seen = []

    def fails(*paths) -> None:
        seen.append({path.name for path in tmp_path.iterdir() if path.name[0] != "."})
        raise OSError("full" if full else "killed")

    monkeypatch.setattr(os, "fsync" if full else "replace", fails)
    with pytest.raises(OSError, match="full" if full else "killed"):
        report.write_predictions(tmp_path, [], "")
    assert seen == [{"predictions.jsonl", "metrics.json"} if full else {"predictions.jsonl"}]
    left = {path.name: path.read_text() for path in tmp_path.iterdir()}
    assert left == earlier if full else left == {"predictions.jsonl": "earlier"}
