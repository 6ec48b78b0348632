"""The final answers in models' texts."""

from __future__ import annotations

import gzip
import json

import pytest

from ul2tune.metrics import answers, registry


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("First A. The answer is no. So the answer is (B).", "(B)"),
        ("So the answer is True.\n\nQ: next? The answer was 3", "True"),
        (" False\n\nQ: more", "False"),
        ("yes.", "yes"),
        ("the answer is ] >.", "] >"),
        ("", ""),
    ],
)
def test_bbh(text, answer):
    assert answers.extract_bbh(text) == answer
    assert answers.score_bbh(text, [answer, "other"]) == 1.0
    assert answers.score_bbh(text, ["Other"]) == 0.0


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("2*3=<<2*3=6>>6 eggs\n#### 1,200", "1200"),
        ("#### 5\nNo, wait.\n#### -7.50", "-7.50"),
        ("She has 6.\nA: 18\n", "18"),
        ("So the answer is $1,000.", "1000"),
        ("The answer is: 4 apples", "4"),
        ("A: The answer is .5", ".5"),
        ("The answer is **18**.", "18"),
        ("The answer is: **-$1,800** in all", "-1800"),
        (r"#### \boxed{7}", "7"),
        (r"The answer is $\boxed{18}$.", "18"),
        (r"The answer is \(\boxed{\$1,800}\).", "1800"),
        ("The answer is:\n\\[\\boxed{-4}\\]", "-4"),
        (r"$\boxed{18}$", ""),  # no mark
        (r"The answer is $x = 18$.", ""),
        ("6 eggs, then 12", ""),
        ("#### twelve", ""),
        ("QA: 3", ""),
    ],
)
def test_gsm8k(text, answer):
    assert answers.extract_gsm8k(text) == answer


def test_gsm8k_compares_numbers():
    assert answers.score_gsm8k("A: 18.0", ["18"]) == 1.0
    assert answers.score_gsm8k("#### 1,200", ["so it is\n#### 1200"]) == 1.0
    assert answers.score_gsm8k("A: 17", ["18"]) == 0.0
    assert answers.score_gsm8k("18", ["18"]) == 0.0  # no mark: perhaps an unfinished calculation
    assert registry.SCORES["gsm8k"] is answers.score_gsm8k


@pytest.mark.parametrize(
    ("text", "letter"),
    [
        ("B", "B"),
        (" (C) because A is wrong", "C"),
        ("A. yes", "A"),
        ("I think the answer is D.", "D"),
        ("The answer is: B", "B"),
        ("The answer is:(A)", "A"),
        ("the answer isn't C", ""),
        ("Because", ""),
        ("A's", ""),
        ("E", ""),
        ("", ""),
    ],
)
def test_mmlu(text, letter):
    assert answers.extract_mmlu(text) == letter
    assert answers.score_mmlu(text, ["A"]) == float(letter == "A")


def test_a_digit_that_is_repeated_for_ever_is_an_answer_too():
    assert answers.score_gsm8k("#### " + "1" * 5000, ["#### 18", "11"]) == 0.0
    assert answers.score_gsm8k("#### " + "1" * 5000, ["1" * 5000]) == 1.0


def test_calculator_annotations():
    text = "48/2 = <<48/2=24>>24 and <<24+48=72>>72"
    assert answers.strip_annotations(text) == "48/2 = 24 and 72"


def test_reproduces_the_54_published_accuracies_of_bbh(shared):
    checked = 0
    for kind in ("cot", "direct"):
        path = shared / "data/bbh/codex_outputs" / f"code_davinci_002_{kind}.json.gz"
        with gzip.open(path, "rt", encoding="utf-8") as file:
            tasks = json.load(file)["tasks"]
        means = []
        for task in tasks.values():
            right = [answers.score_bbh(text, [target]) for text, target in task["outputs"]]
            accuracy = 100 * sum(right) / len(right)
            assert accuracy == pytest.approx(task["official_metrics"]["accuracy"], abs=1e-9)
            means.append(accuracy)
            checked += 1
        published = {"cot": 73.7116, "direct": 52.7597}[kind]
        assert sum(means) / len(means) == pytest.approx(published, abs=5e-5)
    assert checked == 54


def test_agrees_with_800_judgements_of_gsm8k(shared):
    path = shared / "data/gsm8k/example_model_solutions.head200.jsonl"
    models = ("6b_finetuning", "6b_verification", "175b_finetuning", "175b_verification")
    judged = right = 0
    for line in path.read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        for model in models:
            score = answers.score_gsm8k(row[model]["solution"], [row["ground_truth"]])
            assert bool(score) == row[model]["is_correct"]
            judged, right = judged + 1, right + score
    assert (judged, right) == (800, 200 * (0.225 + 0.375 + 0.325 + 0.55))
