"""What an unknown name is answered with."""

from __future__ import annotations

from ul2tune.nearest import closest, did_you_mean


def test_the_most_similar_name_capitals_aside():
    known = ("train", "Trains", "evaluate")
    assert closest("trian", known) == "train"
    assert closest("TRAINS", known) == "Trains"
    assert closest("prepare", known) is None
    assert closest("prepare", known, cutoff=0.0) is not None
    assert closest("train", ()) is None


def test_a_name_is_not_answered_with_itself():
    assert closest("train", ("train",)) is None
    assert closest("train", ("train", "Train")) == "Train"


def test_the_end_of_a_message():
    assert did_you_mean("trian", ("train", "evaluate")) == " (did you mean 'train'?)"
    assert did_you_mean("x", ("train", "evaluate")) == ""
