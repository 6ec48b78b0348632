"""Flan's answer extraction: the cases its code was written for."""

from __future__ import annotations

import pytest

from ul2tune.metrics import registry
from ul2tune.metrics.flan_answers import (
    take_cot_answer,
    take_first_line,
    take_first_paragraph,
    take_first_word,
)


@pytest.mark.parametrize(
    ("text", "word"),
    [(" yes, of course", "yes"), ("No.\nBecause", "No"), ("a;b c", "a;b"), ("", ""), ("..", ".")],
)
def test_first_words(text, word):
    assert take_first_word(text) == word


def test_first_lines_and_paragraphs():
    assert take_first_word("YES", lower_case=True) == "yes"
    assert take_first_line("\n a b \nc") == "a b "
    assert take_first_paragraph("\n a\n\nb\n\n\nc") == "a\n\nb"
    assert take_first_paragraph("xa\n\n\nb", remove="x", end="\n") == "a"


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("4 + 4 = 8. So the answer is (B).", "B"),
        ("The answer is 3. No, the answer is 4.", "4"),
        ("final answer: yes", "yes"),
        ("Answer: (no)?", "no"),
        ("8", "8"),
        ("", ""),
        ("The answer is", ""),
    ],
)
def test_answers_at_the_end_of_a_chain_of_thought(text, answer):
    assert take_cot_answer(text) == answer


def test_references_are_not_searched():
    assert take_cot_answer("(the answer is B).", is_target=True) == "the answer is B"
    assert take_cot_answer("(B).", parentheses=False) == "(B)"


def test_a_rationale_is_scored_by_the_answer_it_ends_in():
    score = registry.SCORES["flan_cot"]
    assert score("4 + 4 = 8. The answer is (B).", ["B"]) == 1.0
    assert score("By symmetry, the final answer: 8", ["3 + 5 = 8. So the answer is 8."]) == 1.0
    assert score("The answer is 8. No, the answer is 9.", ["The answer is 8."]) == 0.0


def test_the_first_word_is_scored_whatever_its_case():
    score = registry.SCORES["flan_first_word"]
    assert score("Yes, it is.", ["no", "yes"]) == 1.0
    assert score("It is, yes.", ["yes"]) == 0.0
