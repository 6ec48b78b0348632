"""Metrics: cases by hand, and other people's numbers."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ul2tune.instructions import superni, superni_file
from ul2tune.instructions.records import copy_demo, copy_input
from ul2tune.metrics import byte_bpe, choices, registry, text

# Scores that need more than references.
NEED_CONTEXT = {"spider_exact_match", "spider_exact_match_tables", "multiwoz_joint"}


@pytest.mark.parametrize(
    ("prediction", "references", "expected"),
    [
        ("Yes.", ["yes"], 1.0),
        ("  the   CAT!", ["The cat"], 1.0),
        ("cat", ["the cat"], 0.0),  # articles count
        ("b", ["a", "B"], 1.0),
        ("", ["."], 1.0),
        ("é", ["e"], 0.0),
    ],
)
def test_exact_match(prediction, references, expected):
    assert text.score_exact_match(prediction, references) == expected


@pytest.mark.parametrize(
    ("prediction", "references", "expected"),
    [
        ("the cat", ["cat"], 1.0),  # articles do not count
        ("a b c", ["b d"], 0.5),  # bags {b, c} and {b, d}: "a" is an article
        ("x x y", ["x y y"], 2 / 3),
        ("x", ["y", "x z"], 2 / 3),
        ("", ["the"], 1.0),
        ("", ["x"], 0.0),
    ],
)
def test_token_f1(prediction, references, expected):
    assert text.score_token_f1(prediction, references) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("prediction", "reference", "squad", "trivia_qa"),
    [
        ("The Beatles!", "beatles", 1.0, 1.0),
        ("rock-n-roll", "rock n roll", 0.0, 1.0),  # SQuAD drops the hyphens, TriviaQA parts there
        ("rock-n-roll", "rocknroll", 1.0, 0.0),
        ("‘Hamlet’", "hamlet", 0.0, 1.0),  # typographic quotes are TriviaQA's only
        ("an", "the", 1.0, 1.0),
        ("cats", "cat", 0.0, 0.0),
    ],
)
def test_question_answering_is_normalised_as_each_data_set_does(
    prediction, reference, squad, trivia_qa
):
    assert text.score_squad_exact_match(prediction, ["no", reference]) == squad
    assert text.score_trivia_qa_exact_match(prediction, ["no", reference]) == trivia_qa


def test_trivia_qa_f1():
    assert text.score_trivia_qa_f1("the rock-n-roll", ["rock"]) == pytest.approx(0.5)
    assert text.score_token_f1("the rock-n-roll", ["rock"]) == 0.0
    assert text.score_trivia_qa_f1("", ["‘"]) == 1.0


def test_rouge_l_is_the_longest_common_subsequence():
    # LCS of "police kill the gunman" and "police killed the gunman" with stems is all 4 words.
    assert text.score_rouge_l("police kill the gunman", ["police killed the gunman"]) == 1.0
    got = text.rouge("the gunman kill police", "police killed the gunman", stemmer=False)
    assert got == {"p": 0.5, "r": 0.5, "f": 0.5}
    uneven = text.rouge("a b c d", "a x", stemmer=False)
    assert (uneven["p"], uneven["r"]) == (0.25, 0.5)


@settings(deadline=None, derandomize=True, max_examples=60)
@given(st.text(max_size=30), st.lists(st.text(max_size=30), min_size=1, max_size=3))
def test_scores_are_in_range_and_best_for_a_reference_itself(prediction, references):
    # "rouge_l_gpt2" needs a file of the user's (tests/metrics/test_byte_bpe.py has one).
    others = {*NEED_CONTEXT, "rouge_l_gpt2"}
    for score in (score for name, score in registry.SCORES.items() if name not in others):
        assert 0.0 <= score(prediction, references) <= 1.0
        assert score(prediction, references) <= score(prediction, [*references, prediction])
    assert text.score_exact_match(references[0], references) == 1.0


def test_seqio_metrics_are_means_in_percent():
    targets, predictions = [["a", "b"], "c", ["d"]], ["b", "c", "x"]
    assert registry.exact_match(targets, predictions) == {"exact_match": pytest.approx(200 / 3)}
    assert registry.token_f1([["x y"]], ["x"])["token_f1"] == pytest.approx(200 / 3)
    with pytest.raises(ValueError, match="one prediction per target, got 1 for 2"):
        registry.rouge_l(["a", "b"], ["a"])


def test_rank_choice_takes_the_first_of_a_tie():
    assert choices.rank_choice([-3.0, -1.0, -2.0]) == 1
    assert choices.rank_choice([-1.000001, -1.0, -2.0]) == 0


def test_numbers_that_are_none_choose_nothing():
    with pytest.raises(ValueError, match=r"\[-1.0, nan\].* not finite"):
        choices.rank_choice([-1.0, float("nan")])


@pytest.mark.parametrize("name", sorted(registry.SCORES.keys() - NEED_CONTEXT))
def test_no_references_are_an_error(name, monkeypatch):
    monkeypatch.setattr(byte_bpe, "default", lambda: None)
    with pytest.raises(ValueError, match="There are no references"):
        registry.SCORES[name]("x", [])
    assert choices.is_correct_choice(" yes", ["no", "yes "])
    assert not choices.is_correct_choice("Yes", ["yes"])


def test_metric_functions_resolve_by_name():
    assert registry.resolve("ul2tune.metrics.registry:exact_match") is registry.exact_match
    assert registry.resolve("ul2tune.metrics.registry.rouge_l") is registry.rouge_l
    for name in ("no.such_module.f", "ul2tune.metrics.registry:nothing", "f"):
        with pytest.raises(ValueError, match=f"Metric '{name}' of the manifest"):
            registry.resolve(name)


def test_a_missing_rouge_package_is_a_clear_error():
    code = (
        "import sys; sys.modules['rouge_score'] = None\n"
        "from ul2tune.metrics import text\n"
        "print(text.score_exact_match('a', ['a']))\n"
        "text.score_rouge_l('a', ['a'])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout == "1.0\n"
    assert "ValueError: ROUGE needs the package rouge-score" in done.stderr


def test_equals_rouge_score_on_a_thousand_pairs(shared):
    root = shared / "data" / "rouge_golden"
    golden = json.loads((root / "golden.json").read_text(encoding="utf-8"))
    predictions = (root / "prediction_large.txt").read_text(encoding="utf-8").splitlines()
    targets = (root / "target_large.txt").read_text(encoding="utf-8").splitlines()
    got = [text.rouge(p, t) for p, t in zip(predictions, targets, strict=True)]
    means = [sum(row[key] for row in got) / len(got) for key in "prf"]
    assert means == pytest.approx(golden["mean_large_stem1"]["rougeL"], abs=1e-12)
    assert [round(row["f"], 8) for row in got[:200]] == golden["rougeL_f_first200_stem1"]


@pytest.mark.slow
def test_baselines_equal_tk_instructs_to_four_decimals(shared):
    root = shared / "data" / "natural_instructions"
    goldens = json.loads((root / "golden_heuristics.json").read_text(encoding="utf-8"))["scores"]
    assert len(goldens) == 108
    for path in sorted(root.glob("tasks*/*.json")):
        records = list(superni.records(superni_file.load_task(path)))
        for name, baseline in (("copy_demo", copy_demo), ("copy_input", copy_input)):
            targets = [record.targets for record in records]
            predictions = [baseline(record) for record in records]
            golden = goldens[path.stem][name]
            assert len(records) == golden["n"]
            rouge_l = registry.rouge_l(targets, predictions)["rouge_l"]
            exact = registry.exact_match(targets, predictions)["exact_match"]
            assert round(rouge_l, 4) == golden["rougeL"], (path.stem, name)
            assert round(exact, 4) == golden["exact_match"], (path.stem, name)
