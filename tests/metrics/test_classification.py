"""Class-wise F1 (against hand counts), seeds."""

import doctest

import pytest

from ul2tune.metrics import classification


def test_macro_f1():
    targets = ["a", "a", "a", "b"]
    # a: precision 2/2, recall 2/3 -> 0.8; b: precision 1/2, recall 1 -> 2/3
    assert classification.score_macro_f1(targets, ["a", "a", "b", "b "]) == pytest.approx(
        (0.8 + 2 / 3) / 2
    )
    # c is nobody's class, but one answer for a less.
    assert classification.score_macro_f1(targets, ["a", "a", "c", "b"]) == pytest.approx(0.9)
    assert classification.score_macro_f1(targets, ["c"] * 4) == 0
    assert classification.macro_f1([["a", "z"], "b"], ["a", "b"]) == {"macro_f1": 100.0}
    with pytest.raises(ValueError, match="got 1 for 2"):
        classification.score_macro_f1(["a", "b"], ["a"])


def test_over_seeds():
    assert classification.over_seeds({100: 3.0, 13: 1.0}) == {
        "average": 2.0,
        "worst": 1.0,
        "num_seeds": 2,
    }
    with pytest.raises(ValueError, match="at least one seed"):
        classification.over_seeds({})


def test_docstrings():
    assert doctest.testmod(classification).failed == 0
