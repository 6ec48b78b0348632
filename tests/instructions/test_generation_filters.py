"""The filters of generated instructions and instances, one by one."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ul2tune.instructions import generation_filters as filters
from ul2tune.instructions.generation_filters import Instance, Pool


def test_split_and_clean():
    text = " Name a  river\nin Peru.\n9. sort THE list\n10 . Say it: 3. twice"
    parts = filters.split_instructions(text)
    assert [filters.clean_instruction(part) for part in parts] == [
        "Name a river in Peru.",
        "Sort THE list",
        "Say it: 3. twice",
    ]
    assert filters.clean_instruction("visit Peru NOW", compat=True) == "Visit peru now"
    assert filters.clean_instruction(" \n") == ""


@pytest.mark.parametrize(
    ("instruction", "fault"),
    [
        ("Name a river.", "too short"),
        ("Name a long river.", None),
        (" ".join(["word"] * 150), None),
        (" ".join(["word"] * 151), "too long"),
        ("Describe the given picture briefly.", "blacklisted word"),
        ("Tell me where to Go To now.", "blacklisted word"),
        ("Explain a bitmap to children.", None),
        ("Write a program that sorts.", "write a program"),
        ("Write a Program that sorts.", "write a program"),
        ("(a) or (b) or neither?", "punctuation"),
        ("Émile was who exactly?", "not ASCII"),
        ("Who was Émile exactly?", None),
        ("", "empty"),
        ("Rate this music for me.", None),
    ],
)
def test_faults(instruction, fault):
    assert filters.instruction_fault(instruction) == fault


def test_alpacas_words():
    words = filters.ALPACA_BLACKLIST
    assert filters.instruction_fault("Rate this music for me.", words) == "blacklisted word"


def test_near_duplicates():
    # Lengths 10 and 10, longest common subsequence 7 or 8: ROUGE-L 0.7 or 0.8.
    base = "a b c d e f g h i j"
    pool = Pool(["something else entirely", base])
    assert pool.near_duplicate("a b c d e f g x y z") is None
    assert pool.near_duplicate("a b c d e f g h y z") == base
    assert pool.near_duplicate("J I H G F E D C B A") is None  # same words, other order
    assert pool.near_duplicate("A, B c d! e f g h y z") == base
    assert pool.near_duplicate("...") is None
    pool.add("x y z")
    assert pool.near_duplicate("x y z") == "x y z"


words = st.lists(st.sampled_from("abcd"), min_size=1, max_size=8).map(" ".join)


@settings(deadline=None, derandomize=True, max_examples=60)
@given(st.lists(words, min_size=1, max_size=4), words)
def test_the_bound_loses_no_duplicate(members, instruction):
    expected = next((m for m in members if filters.similarity(instruction, m) > 0.7), None)
    assert Pool(members).near_duplicate(instruction) == expected


@pytest.mark.parametrize(
    ("text", "answer"), [(" Yes", True), ("YES\n", True), ("No", False), ("Yes.", False)]
)
def test_classification(text, answer):
    assert filters.is_classification(text) == answer


def test_inputs_first():
    text = "Example 1\nList: 3, 1\nOutput: 1, 3\n\nExample 2\nInput: 2\nOutput: 2!\nInput: 9"
    assert filters.parse_instances(text, classification=False) == [
        Instance("List: 3, 1", "1, 3"),
        Instance("2", "2!"),
    ]
    assert len(filters.parse_instances(text, classification=False, cut=True)) == 1
    assert filters.parse_instances("Output: ok", classification=False) == [Instance("", "ok")]
    assert filters.parse_instances("no marks", classification=False) == []


def test_labels_first():
    text = "Class label: good\nText: nice\nday\nClass label: bad\n"
    assert filters.parse_instances(text, classification=True) == [
        Instance("Text: nice\nday", "good"),
        Instance("", "bad"),
    ]
    assert filters.parse_instances("Example 1", classification=True) == []


def test_invalid_and_conflicting_instances():
    good, other = Instance("a", "b"), Instance("c", "d")
    invalid = [Instance("x", "x"), Instance("x", ""), Instance("x:", "y"), Instance("x", "y: ")]
    faults = [filters.instance_fault(instance) for instance in invalid]
    assert faults == ["input is output", "empty output", "ends with a colon", "ends with a colon"]
    assert filters.filter_instances([good, *invalid, other, good]) == [good, other]
    assert filters.filter_instances([good, other, Instance("a", "z")]) == []
    without_input = [Instance("", "b"), Instance("", "c")]
    assert filters.filter_instances(without_input) == without_input


def test_choice_of_instances():
    many = [Instance(str(i), "o") for i in range(20)]
    chosen = filters.choose_instances(many, "Do it.", seed=1)
    assert len(chosen) == 5
    assert chosen == sorted(chosen, key=many.index)
    assert chosen == filters.choose_instances(many, "Do it.", seed=1)
    assert chosen != filters.choose_instances(many, "Do it.", seed=2)
    assert filters.choose_instances(many[:3], "Do it.", seed=1) == many[:3]
