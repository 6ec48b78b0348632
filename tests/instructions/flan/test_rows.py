"""Reading rows: every kind of file, and mistakes named with their line."""

from __future__ import annotations

import json

import pytest

from ul2tune.instructions.flan import rows as flan_rows
from ul2tune.instructions.flan.rows import CotRows, DialogRows, JsonlRows, NIv2Rows, P3Rows


def write(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    text = "".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows)
    path.write_text(text, encoding="utf-8")
    return path


def test_fields_lists_and_numbers(tmp_path):
    row = {"id": "a", "text": "x", "n": 3, "options": ["b", "c"], "answers": ["b"], "answer": "b"}
    write(tmp_path / "train.jsonl", [row, "", {"text": "y"}])
    rows = JsonlRows(folder=str(tmp_path))
    first, second = rows.read("train")
    assert (first.id, first.fields["n"], first.options, first.answers) == (
        "a",
        "3",
        ("b", "c"),
        ("b",),
    )
    assert (second.id, second.fields) == ("train-1", {"text": "y"})
    assert rows.splits == ("train",)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("{", "train.jsonl:2: not valid JSON"),
        ("[]", "train.jsonl:2: expected a JSON object"),
        ({"x": 0.5}, "train.jsonl:2: field 'x' must be a string or an integer"),
        ({"x": None}, "train.jsonl:2: field 'x'"),
        ({"options": "ab"}, "train.jsonl:2: 'options' must be a list of strings"),
        ({"options": [1]}, "train.jsonl:2: 'options'"),
        ({"id": ""}, "train.jsonl:2: 'id' is empty"),
    ],
)
def test_a_wrong_row_is_named(tmp_path, row, message):
    write(tmp_path / "train.jsonl", [{"x": "ok"}, row])
    with pytest.raises(ValueError, match=message.replace("[", r"\[")):
        list(JsonlRows(folder=str(tmp_path)).read("train"))


def test_splits_are_slices_of_the_official_files(tmp_path):
    write(tmp_path / "train.jsonl", [{"x": str(i)} for i in range(10)])
    rules = {"train": "train[:8]", "validation": "train[-3:]", "test": "absent"}
    found = {}
    for overlap in (False, True):
        rows = JsonlRows(folder=str(tmp_path), rules=rules, overlap=overlap)
        assert rows.splits == ("train", "validation")
        found[overlap] = [[int(r.fields["x"]) for r in rows.read(s)] for s in rows.splits]
    assert found == {
        False: [[0, 1, 2, 3, 4, 5, 6], [7, 8, 9]],
        True: [[0, 1, 2, 3, 4, 5, 6, 7], [7, 8, 9]],
    }
    prints = {JsonlRows(folder=str(tmp_path), overlap=o).fingerprint() for o in (False, True)}
    assert len(prints) == 2
    with pytest.raises(ValueError, match="not a split such as"):
        flan_rows.parse_slice("train[3]")


def test_chains_of_thought_have_literal_line_ends(tmp_path):
    path = write(tmp_path / "toy_train.tsv", ["q\\none\ta\\nb\tr\r1\\nr2\tmore\r"])
    (row,) = CotRows(path=str(path)).read("train")
    assert row.fields == {"question": "q\none", "answer": "a\\nb", "chain_of_thought": "r1\nr2"}
    assert row.id == "toy-1"
    write(path, ["a\tb\tc", "", "a\tb"])
    with pytest.raises(ValueError, match=r"toy_train.tsv:3: expected question.*2 columns"):
        list(flan_rows.load_cot(path))


def test_dialogues_answer_a_turn_of_the_second_speaker(tmp_path):
    turns = [f"turn {i}" for i in range(9)]
    rows = [{"utterances": ["I am your assistant.", *turns], "id": f"d{i}"} for i in range(40)]
    path = write(tmp_path / "wiki_dialog.jsonl", rows)
    found = list(DialogRows(path=str(path), seed=1).read("train"))
    lengths = {len(row.dialog) for row in found}
    assert lengths == {1, 3, 5, 7}
    assert all(row.fields["answer"] == turns[len(row.dialog)] for row in found)
    assert list(DialogRows(path=str(path), seed=1).read("train")) == found
    assert list(DialogRows(path=str(path), seed=2).read("train")) != found


def test_early_turns_of_qrecc_are_left_out(tmp_path):
    rows = [{"context": ["a", "b"], "turn_id": i} for i in (6, 7)]
    path = write(tmp_path / "qrecc.jsonl", [*rows, {"context": ["a"], "turn_id": 9}])
    (row,) = DialogRows(path=str(path)).read("train")
    assert (row.dialog, row.fields["answer"]) == (("a",), "b")
    write(path, [{"turns": []}])
    with pytest.raises(ValueError, match=r"qrecc.jsonl:1: a dialogue has"):
        list(DialogRows(path=str(path)).read("train"))


P3 = {
    "inputs_pretokenized": " Which\none\\nis it? ",
    "targets_pretokenized": "\nthe\nfirst",
    "answer_choices": ["the\nfirst", "other "],
}


def test_line_ends_of_p3_become_spaces():
    row = flan_rows.t0_row(P3, "t0_multiple_choice", "r")
    assert (row.fields["question"], row.fields["answer"]) == ("Which one is it?", "the first")
    assert row.options == ("the first", "other")
    compat = flan_rows.t0_row(P3, "t0_question_answer", "r", compat=True)
    assert compat.fields == {"question": "Which one\\nis it?", "answer": "thefirst"}
    assert compat.options == ()


def test_an_answer_that_is_no_option_is_named(tmp_path):
    write(tmp_path / "train.jsonl", [P3, {**P3, "targets_pretokenized": "none"}])
    rows = P3Rows(folder=str(tmp_path), task_type="t0_multiple_choice")
    with pytest.raises(ValueError, match=r"train.jsonl:2: the answer 'none' is none of"):
        list(rows.read("train"))
    with pytest.raises(ValueError, match="'inputs_pretokenized' must be a string"):
        flan_rows.t0_row({}, "t0_question_answer", "r")


def test_a_natural_instruction_shows_an_example_that_is_not_itself(tmp_path):
    positive = [
        {"input": "2", "output": "two", "explanation": "why"},
        {"input": "3", "output": "three"},
    ]
    task = {
        "Definition": ["Spell."],
        "Categories": ["Spelling"],
        "Positive Examples": positive,
        "Negative Examples": [],
        "Instances": [
            {"id": "a", "input": "1", "output": ["one", "ONE"]},
            {"id": "b", "input": "2", "output": ["two"]},
        ],
    }
    path = tmp_path / "task9_spell.json"
    path.write_text(json.dumps(task))
    rows = {row.id: row for row in NIv2Rows(path=str(path)).read("train")}
    assert rows["a"].fields["ex_input"] == "2"
    assert (rows["b"].fields["ex_input"], rows["b"].fields["ex_explanation"]) == ("3", "")
    assert rows["a"].answers == ("one", "ONE")
    (first, second) = NIv2Rows(path=str(path), compat=True).read("train")
    assert first.fields["ex_input"] == second.fields["ex_input"] == "2"
    path.write_text(json.dumps({**task, "Positive Examples": positive[:1]}))
    with pytest.raises(ValueError, match="instance 'b' needs a positive example"):
        list(NIv2Rows(path=str(path)).read("train"))


def test_the_authors_chains_of_thought_can_be_read(shared):
    folder = shared / "data" / "flan" / "cot"
    counts = {
        path.name.split("_")[0]: len(list(flan_rows.load_cot(path)))
        for path in folder.glob("*.tsv")
    }
    assert counts == {
        "aqua": 1500,
        "creak": 1500,
        "ecqa": 1500,
        "gsm8k": 300,
        "qasc": 1084,
        "sensemaking": 1500,
        "strategyqa": 2061,
    }
