"""How often metric functions are called, which may take minutes."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from tests.evaluation import prepared
from tests.evaluation.test_failing_metrics import CONFIG
from ul2tune.data.seqio_metrics import SeqioMetrics
from ul2tune.evaluation import preflight, report, run
from ul2tune.evaluation.answer import Answer
from ul2tune.named_function import NamedFunction

CALLS: list[list[str]] = []


def slow(targets, predictions):
    CALLS.append(list(predictions))
    return {"slow": float(len("".join(predictions)))}


def recall_of_yes(targets, predictions):
    own = [p for (t, *_), p in zip(targets, predictions) if t == "yes"]
    return {"recall": 100.0 * own.count("yes") / max(len(own), 1)}


def slow_of_scores(targets, scores):
    CALLS.append(["scores"] * len(scores))
    return {"slow_of_scores": 1.0}


OF_TEXTS: dict[str, Any] = {"metrics": (f"{__name__}.slow",)}
AS_IN_SEQIO: dict[str, Any] = {
    "seqio_metrics": SeqioMetrics(
        postprocess=None,
        of_predictions=(NamedFunction(name=f"{__name__}:slow"),),
        of_scores=(NamedFunction(name=f"{__name__}:slow_of_scores"),),
    )
}


@pytest.mark.parametrize("scoring", [OF_TEXTS, AS_IN_SEQIO])
@pytest.mark.parametrize("few", [3, 7])
def test_all_examples_are_tried_once_and_few_of_them_again(scoring, few, tmp_path, monkeypatch):
    monkeypatch.setattr(preflight, "_FEW", few)
    eval_set = run.load_set("instructions", str(prepared.write(tmp_path, **scoring)), CONFIG)
    CALLS.clear()
    preflight.check_metrics(eval_set, CONFIG.metrics)
    once = [[False] * 7]
    once += [[False] * 7] if scoring is AS_IN_SEQIO else []  # those of scores
    again = [[False] * few] if few < 7 else []
    empty = [[True] * few]
    assert [[not text for text in call] for call in CALLS] == 2 * [*once, *again, *empty]


@pytest.mark.parametrize("warned", [True, False])
def test_few_of_many_examples_tell_whether_a_metric_knows_them(
    warned, tmp_path, monkeypatch, caplog
):
    monkeypatch.setattr(preflight, "_FEW", 3)
    knows = f"{__name__}.slow"
    metrics = ("tests.evaluation.test_preflight.as_in_seqio",) if warned else (knows,)
    eval_set = run.load_set("instructions", str(prepared.write(tmp_path, metrics=metrics)), CONFIG)
    preflight.check_metrics(eval_set, CONFIG.metrics)
    texts = [r.getMessage() for r in caplog.records if r.name.endswith("preflight")]
    assert len(texts) == 2 * warned
    assert all("what it gives empty answers (accuracy = 0)" in text for text in texts)


def test_a_class_that_few_examples_lack_is_no_reason_to_warn(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(preflight, "_FEW", 1)  # whose answer is "no"
    metrics = (f"{__name__}.recall_of_yes",)
    eval_set = run.load_set("instructions", str(prepared.write(tmp_path, metrics=metrics)), CONFIG)
    preflight.check_metrics(eval_set, CONFIG.metrics)
    assert not [r for r in caplog.records if r.name.endswith("preflight")]


def test_a_table_calls_them_once_for_a_task_of_one_prompt(tmp_path):
    eval_set = run.load_set("instructions", str(prepared.write(tmp_path, **OF_TEXTS)), CONFIG)
    answers = [
        Answer(example=example, text="no", choices=(), scores={"exact_match": 1.0})
        for example in eval_set.examples
    ]
    CALLS.clear()
    table = report.summarize(answers, eval_set, CONFIG.metrics)
    assert [len(call) for call in CALLS] == [7, 7]
    assert [result["scores"]["slow"] for result in table["results"]] == [14.0, 14.0]
    assert table["tasks"]["first"]["num_examples"] == 7
    of_parts = [
        dataclasses.replace(
            answer, example=dataclasses.replace(answer.example, template_id=str(number % 2))
        )
        for number, answer in enumerate(answers)
    ]
    CALLS.clear()
    report.summarize(of_parts, eval_set, CONFIG.metrics)
    assert sorted(len(call) for call in CALLS) == [3, 3, 4, 4, 7, 7]
