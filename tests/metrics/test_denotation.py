"""Answers about tables, TabFact, dialogue states, BLEU."""

from __future__ import annotations

import json
import sys

import pytest

from ul2tune.metrics import (
    bleu,
    classification,
    denotation,
    dialogue_state,
    registry,
    spider,
    tabfact,
)
from ul2tune.metrics.references import References, context_of


@pytest.mark.parametrize(
    ("prediction", "reference", "expected"),
    [
        ("a, b", "b, a", 1.0),
        ("1", "1.0", 1.0),
        ("+5", "5", 1.0),
        ("12,467", "12,467", 1.0),
        ("a, a", "a", 0.0),
        ("A", "a", 0.0),
        (".", ".", 1.0),
        ("", "", 1.0),
    ],
)
def test_all_ex(prediction, reference, expected):
    assert denotation.score_all_ex(prediction, [reference]) == expected


@pytest.mark.parametrize(
    ("prediction", "reference", "expected"),
    [
        ("Zürich", "zurich", 1.0),
        ("“Paris”", "paris", 1.0),
        ("Paris[1]", "paris", 1.0),
        ("Paris (France)†", "paris", 1.0),
        ("Paris.", "paris", 1.0),
        ("5.0", "5", 1.0),
        ("5, 5.0", "5", 1.0),  # a set of values
        ("2004-05-xx", "2004-5-xx", 1.0),
        ("2004-xx-xx", "2004", 1.0),
        ("2004-13-01", "2004-13-1", 0.0),  # no month 13: two strings
        ("nan", "inf", 0.0),
        ("paris", "london, paris", 0.0),
        ("[note]", "", 0.0),
        ("1, 1.0", "①", 1.0),  # the first of equal numbers has the text "1"
        ("1.0, 1", "①", 0.0),
    ],
)
def test_denotation(prediction, reference, expected):
    assert denotation.score_denotation(prediction, [reference]) == expected


def test_hostile_text_is_cheap():
    for text in ("[" * 50_000 + "]", "(" * 50_000, " (" * 30_000 + ")", "9" * 10_000):
        assert denotation.score_denotation(text, ["x"]) == 0.0


def test_means_in_percent():
    got = denotation.all_ex([["1"], "b"], ["1.0", "B"])
    assert got == {"all_ex": 50.0, "denotation": 100.0}
    assert tabfact.tabfact_accuracy(["entailed", ["refuted"]], ["entailed", "Refuted"]) == {
        "tabfact_accuracy": 50.0
    }


@pytest.mark.parametrize(
    "function",
    [
        registry.exact_match,
        denotation.all_ex,
        tabfact.tabfact_accuracy,
        classification.macro_f1,
        bleu.corpus_bleu,
        dialogue_state.multiwoz,
        spider.spider_exact_match,
    ],
)
def test_what_no_reference_scores_has_no_score(function):
    with pytest.raises(ValueError, match=r"needs one prediction per target, got 0 for 0\."):
        function([], [])
    with pytest.raises(ValueError, match=r"needs one prediction per target, got 2 for 1\."):
        function(["a"], ["a", "b"])
    with pytest.raises(ValueError, match=r"example 1 of 2 has no references"):
        function([[], "a"], ["a", "a"])


def test_dialogue_state():
    text = "hotel area north, hotel book people 2, hotel stars none, taxi"
    assert dialogue_state.parse_state(text) == {"hotel-area-north", "hotel-book people-2"}
    context = {"belief": ["hotel-area-north", "hotel-stars-none"], "num_slots": 4}
    references = References(["…"], json.dumps(context))
    assert dialogue_state.score_multiwoz_joint("hotel area north", references) == 1.0
    assert dialogue_state.score_multiwoz_joint(text, references) == 0.0
    got = dialogue_state.multiwoz([references], [text])
    assert got == {
        "multiwoz_joint": 0.0,
        "multiwoz_slot": 75.0,
        "multiwoz_f1": pytest.approx(200 / 3),
    }


def test_references_are_a_sequence_with_a_context():
    references = References(["a", "b"], '{"x": 1}')
    assert references == ("a", "b")
    assert context_of(references, "m") == {"x": 1}
    with pytest.raises(ValueError, match="Metric 'm' needs more"):
        context_of(["a"], "m")


def test_bleu_takes_different_numbers_of_references():
    cat = "the cat sat on the mat"
    assert bleu.corpus_bleu([[cat, "x"], cat], [cat + " ", cat]) == {
        "sacrebleu": pytest.approx(100.0)
    }
    # Corpus: n-gram precisions 9/12, 8/10, 7/8, 6/6 … by hand for one half-right pair.
    half = bleu.corpus_bleu([cat], ["the cat sat on the rug"])["sacrebleu"]
    assert half == pytest.approx(100 * (5 / 6 * 4 / 5 * 3 / 4 * 2 / 3) ** 0.25)
    with pytest.raises(ValueError, match="one prediction per target"):
        bleu.corpus_bleu([cat], [])


def test_without_sacrebleu_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "sacrebleu", None)
    with pytest.raises(ValueError, match=r"pip install 'ul2tune\[eval\]'"):
        bleu.corpus_bleu(["a"], ["a"])
