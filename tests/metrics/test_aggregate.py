"""Averages in OPT-IML's order, by hand."""

import json

import pytest

from ul2tune.metrics import aggregate
from ul2tune.metrics.prompt_result import PromptResult


def result(task, prompt, em, **options):
    values = {
        "task": task, "prompt": prompt, "category": "", "benchmark": "", "split_level": "",
        "shots": 0, "seed": "", "num_examples": 1, "scores": {"em": em},
    }  # fmt: skip
    return PromptResult(**{**values, **options})


def test_prompts_tasks_categories_shots():
    results = [
        result("rte", "a", 10, category="nli", benchmark="ps"),
        result("rte", "b", 30, category="nli", benchmark="ps"),
        result("rte", "a", 40, category="nli", benchmark="flan"),  # merged: (20 + 40) / 2
        result("cb", "a", 90, category="nli"),
        result("qa", "a", 0, category="qa", subtask="en"),
        result("qa", "b", 100, category="qa", subtask="en"),
        result("qa", "a", 70, category="qa", subtask="de"),  # (50 + 70) / 2
        result("qa", "a", 20, category="qa", shots=5),
    ]
    report = aggregate.aggregate(results)
    zero = report["shots"]["0"]
    assert zero["tasks"] == {"cb": {"em": 90}, "qa": {"em": 60}, "rte": {"em": 30}}
    assert zero["categories"] == {"nli": {"em": 60}, "qa": {"em": 60}}
    assert zero["mean_over_categories"] == {"em": 60}
    assert report["shots"]["5"]["mean_over_categories"] == {"em": 20}
    assert report["mean_over_shots"] == {"em": 40}
    note = "cb and 1 more has no 5-shot result: the means differ in their tasks."
    assert report["notes"] == [note]
    assert aggregate.aggregate(results[::-1]) == report
    assert json.loads(json.dumps(report)) == report


def test_scores_keep_their_names():
    scores = {"rank_accuracy_sum": 50.0, "rank_accuracy_mean": 60.0}
    report = aggregate.aggregate(
        [
            result("a", "p", 0, scores=scores),
            result("b", "p", 0, scores={"rouge_l": 20.0}),
        ]
    )
    assert report["mean_over_shots"] == {**scores, "rouge_l": 20.0}


@pytest.mark.parametrize(
    ("results", "message"),
    [
        ([], "no results"),
        ([result("t", "p", 1), result("t", "p", 2)], "'p' of task 't' .0 shots. has two results"),
        (
            [result("t", "p", 1, category="a"), result("t", "q", 1, category="b")],
            "'t' is in categories 'a' and 'b'",
        ),
    ],
)
def test_refusals(results, message):
    with pytest.raises(ValueError, match=message):
        aggregate.aggregate(results)
