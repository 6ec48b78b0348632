"""Averages in OPT-IML's order, by hand."""

import json

import pytest

from ul2tune.metrics import aggregate
from ul2tune.metrics.aggregate import Result


def result(task, prompt, em, **options):
    return Result(task=task, prompt=prompt, scores={"em": em}, **options)


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
    zero = report.by_shots[0]
    assert zero.tasks == {"cb": {"em": 90}, "qa": {"em": 60}, "rte": {"em": 30}}
    assert zero.categories == {"nli": {"em": 60}, "qa": {"em": 60}}
    assert zero.mean == {"em": 60}
    assert report.by_shots[5].mean == {"em": 20}
    assert report.mean == {"em": 40}
    assert report.notes == ("cb and 1 more has no 5-shot result: the means differ in their tasks.",)
    assert aggregate.aggregate(results[::-1]) == report
    assert json.loads(json.dumps(report.to_json()))["shots"]["0"]["categories"]["qa"] == {"em": 60}


def test_scores_keep_their_names():
    scores = {"rank_accuracy_sum": 50.0, "rank_accuracy_mean": 60.0}
    report = aggregate.aggregate(
        [
            Result(task="a", prompt="p", scores=scores),
            Result(task="b", prompt="p", scores={"rouge_l": 20.0}),
        ]
    )
    assert report.mean == {**scores, "rouge_l": 20.0}


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
