"""Averages of one evaluation and of several, through the command."""

from __future__ import annotations

import json
import math

import pytest

from ul2tune.cli import main
from ul2tune.data.seqio_metrics import SeqioMetrics
from ul2tune.evaluation import averages, groups, report
from ul2tune.evaluation.answer import Answer
from ul2tune.evaluation.eval_set import EvalExample
from ul2tune.metrics import prompt_result
from ul2tune.metrics.prompt_result import PromptResult
from ul2tune.named_function import NamedFunction


def answer(task, score, **fields) -> Answer:
    example = EvalExample(
        task=task,
        id="1",
        inputs_S=None,  # type: ignore[arg-type]
        inputs_text="",
        references=("a",),
        **{"category": "nli", "metric_names": ("rank_accuracy_sum", "rouge_l"), **fields},
    )
    return Answer(example=example, text="", choices=(), scores={"rouge_l": score})


def result(task: str, score: float, **fields) -> PromptResult:
    values = {
        "prompt": task, "task": task, "category": "c", "benchmark": "b", "split_level": "held_out",
        "shots": 0, "seed": "0", "num_examples": 1, "scores": {"em": score},
    }  # fmt: skip
    return PromptResult(**{**values, **fields})


GOOD = result("t", 1.0).to_json()


def write(folder, results, **facts):
    folder.mkdir()
    facts = {"checkpoint": "runs/mine", "step": 7, "vocabulary": "v", **facts}
    table = {**facts, "results": [one.to_json() for one in results]}
    (folder / "metrics.json").write_text(json.dumps(table))
    return str(folder)


def results(answers, functions) -> list[PromptResult]:
    tasks = groups.grouped(answers, lambda answer: answer.example.task)
    whole = {task: groups.task_scores(own, functions[task]) for task, own in tasks.items()}
    return averages.results(answers, functions, whole)


def of_two_answers(targets, predictions):
    assert len(targets) == 2
    return {"of_two": 1.0}


def test_seqios_metrics_are_of_whole_tasks():
    """One may fail on the part that a prompt has; a task of another make may have such fields."""
    function = NamedFunction(name=f"{__name__}:of_two_answers")
    seqio = SeqioMetrics(postprocess=None, of_predictions=(function,), of_scores=())
    answers = [answer("parts", 1.0, template_id=prompt) for prompt in ("t1", "t2")]
    answers += [answer("whole", 1.0, template_id="t1")] * 2
    functions = {"parts": seqio, "whole": seqio}
    found = {result.prompt: set(result.scores) for result in results(answers, functions)}
    own = {"rouge_l", "headline"}
    assert found == {"parts/t1": own, "parts/t2": own, "whole/t1": own | {"of_two"}}


def test_a_result_is_a_prompt_of_a_task():
    shown = {"record_task": "rte", "template_id": "t1", "split_level": "held_out", "seed": "3"}
    answers = [
        answer("ps_rte", 1.0, demo_ids=("a", "b"), **shown),
        answer("ps_rte", 0.0, demo_ids=("a",), **shown),
        answer("ps_rte", 0.0, **{**shown, "template_id": "t2"}),
        answer("other", 0.5, metric_names=()),
    ]
    first, second, third = results(answers, {"ps_rte": (), "other": ()})
    assert (first.prompt, first.task, first.shots, first.seed) == ("ps_rte/t1", "rte", 2, "3")
    assert first.scores == {"rouge_l": 50.0, "headline": 50.0}
    assert (first.num_examples, second.prompt, second.shots) == (2, "ps_rte/t2", 0)
    assert (third.prompt, third.task, third.scores) == ("other", "other", {"rouge_l": 50.0})
    found = averages.average([first, second, third])
    assert list(found["split_levels"]) == ["held_out"]
    assert found["all"]["mean_over_shots"]["headline"] == 25.0


def test_what_cannot_be_averaged_is_said():
    found = averages.average([result("t", 1.0), result("t", 2.0, prompt="p", category="other")])
    assert found["all"]["notes"] == [
        "Task 't' is in categories 'c' and 'other': merge only tasks of one category."
    ]
    assert found["split_levels"]["held_out"].keys() == {"notes"}


def test_average_and_worst_seed():
    rows = [("a", "13", 10), ("a", "100", 30), ("b", "13", 50), ("b", "100", 40), ("alone", "1", 0)]
    found = averages.over_seeds([result(t, s, seed=n, prompt=t + n) for t, n, s in rows])
    assert found["tasks"]["a"]["em"] == {"average": 20.0, "worst": 10.0, "num_seeds": 2}
    assert "alone" not in found["tasks"]
    # Under seed 13 both have 30 on average, under seed 100 they have 35.
    assert found["mean_over_tasks"]["em"] == {
        "average": 32.5, "worst": 25.0, "worst_seed": 30.0, "num_tasks": 2
    }  # fmt: skip
    assert averages.over_seeds([result("a", 1.0)]) == {}


def test_zero_and_five_shot_outputs_are_averaged_by_the_command(tmp_path, capsys):
    zero = write(
        tmp_path / "zero",
        [
            result("xnli_en", 20.0, category="nli"),
            result("xnli_de", 40.0, category="nli"),
            result("qa", 90.0, category="qa", split_level="supervised"),
        ],
    )
    five = write(
        tmp_path / "five",
        [
            result("xnli_en", 60.0, category="nli", shots=5),
            result("qa", 100.0, category="qa", split_level="supervised", shots=5),
        ],
    )
    tasks = tmp_path / "tasks.json"
    merged = {"task": "xnli", "split_level": "partial"}
    tasks.write_text(json.dumps({"xnli_en": merged, "xnli_de": merged, "squad": {}}))
    report = tmp_path / "averages.json"
    arguments = ["evaluate", zero, five, f"--tasks={tasks}", f"--report={report}"]
    assert main.main(arguments) == 0
    table = json.loads(report.read_text())
    assert table["step"] == 7
    by_shots = table["averages"]["all"]["shots"]
    assert by_shots["0"]["tasks"] == {"qa": {"em": 90.0}, "xnli": {"em": 30.0}}
    assert by_shots["0"]["mean_over_categories"] == {"em": 60.0}
    assert by_shots["5"]["mean_over_categories"] == {"em": 80.0}
    assert table["averages"]["split_levels"]["partial"]["mean_over_shots"] == {"em": 45.0}
    printed = capsys.readouterr().out
    assert "all  em: 70.00  (0-shot 60.00, 5-shot 80.00)" in printed
    assert "tasks.json names 'squad' (1 such): not evaluated." in printed


@pytest.mark.parametrize(
    ("facts", "tasks", "message"),
    [
        ({"step": 8}, "{}", "has step = 8, .* has 7: average evaluations of one checkpoint"),
        ({"vocabulary": "w"}, "{}", "has vocabulary = 'w'"),
        ({}, "[]", "expected an object of tasks, got list"),
        ({}, '{"t": {"name": "x"}}', r"'t' must be an object with some of \['category'"),
        ({}, '{"t": {"task": 3}}', "'t' must have strings as values"),
        ({}, "{", "not valid JSON"),
    ],
)
def test_refusals(tmp_path, facts, tasks, message):
    one, two = (
        write(tmp_path / "a", [result("t", 1.0)]),
        write(tmp_path / "b", [result("u", 1.0)], **facts),
    )
    (tmp_path / "tasks.json").write_text(tasks)
    with pytest.raises(ValueError, match=message):
        averages.combine([one, two], tmp_path / "tasks.json")


@pytest.mark.parametrize(
    ("written", "message"),
    [
        (
            {"results": [{"prompt": "a"}]},
            "metrics.json: result 1 must be an object with benchmark,",
        ),
        ({"results": [{**GOOD, "color": "red"}]}, "result 1 must be an object with benchmark,"),
        ({"results": [GOOD, "t"]}, "result 2 must be an object with benchmark, .* got 't'"),
        ({"results": [{**GOOD, "shots": None}]}, "result 1: shots = None is not what"),
        ({"results": [{**GOOD, "num_examples": True}]}, "result 1: num_examples = True is not"),
        ({"results": [{**GOOD, "task": ["t"]}]}, r"result 1: task = \['t'\] is not what"),
        ({"results": [{**GOOD, "scores": {"em": "1"}}]}, "result 1: scores = {'em': '1'} is not"),
        ({"results": [{**GOOD, "scores": [1]}]}, r"result 1: scores = \[1\] is not what"),
        ({"results": {"a": GOOD}}, "has no 'results'"),
        ({"results": "abc"}, "has no 'results'"),
        ([GOOD], "has no 'results'"),
    ],
)
def test_results_that_evaluate_did_not_write(tmp_path, written, message):
    (tmp_path / "metrics.json").write_text(json.dumps(written))
    with pytest.raises(ValueError, match=message):
        averages.combine([tmp_path])


def test_files_that_are_no_json(tmp_path):
    path = tmp_path / "metrics.json"
    for data in (b"\xff", b"{", b"[" * 100_000):
        path.write_bytes(data)
        with pytest.raises(ValueError, match=r"metrics\.json.*not valid"):
            averages.combine([tmp_path])


def test_what_was_written_is_read_again():
    one = result("t", 1.0, subtask="s")
    assert PromptResult.from_json(one.to_json(), "here") == one
    assert set(prompt_result._KINDS) == one.to_json().keys()


def test_a_score_that_is_no_number_is_null(tmp_path):
    """JSON has no NaN; Python's own reader would take it all the same."""
    one = result("t", math.nan, prompt="a").to_json()
    table = {"checkpoint": "runs/mine", "step": 7, "vocabulary": "v", "results": [one]}
    report.write_table(tmp_path, table)
    text = (tmp_path / "metrics.json").read_text()
    (read,) = json.loads(text, parse_constant=pytest.fail)["results"]
    assert read["scores"] == {"em": None}
    found = averages.combine([tmp_path])
    assert math.isnan(found["results"][0]["scores"]["em"])
    output = tmp_path / "average.json"
    assert main.main(["evaluate", str(tmp_path), f"--report={output}"]) == 0
    json.loads(output.read_text(), parse_constant=pytest.fail)


def test_the_same_output_twice_and_no_results(tmp_path):
    one = write(tmp_path / "a", [result("t", 1.0)])
    with pytest.raises(ValueError, match="An output is named twice"):
        averages.combine([one, one])
    same = write(tmp_path / "same", [result("t", 1.0)])
    notes = averages.combine([one, same])["averages"]["all"]["notes"]
    assert notes == ["Prompt 't' of task 't' (0 shots) has two results."]
    with pytest.raises(ValueError, match="has no 'results'"):
        averages.combine([write(tmp_path / "b", [])])


def test_an_output_that_is_not_there(capsys):
    assert main.main(["evaluate", "nowhere"]) == 1
    assert "nowhere" in capsys.readouterr().err
