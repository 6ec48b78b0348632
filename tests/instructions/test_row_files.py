"""Files of rows: both forms, splits by whole rows, errors with their places."""

from __future__ import annotations

import json

import pytest

from ul2tune.instructions import row_files
from ul2tune.instructions.records import Record
from ul2tune.instructions.row_files import RowFile


def parse(row, where, identity):
    return tuple(
        Record(id=f"{row.get('id', identity)}-{i}", task="t", input=text, targets=("y",))
        for i, text in enumerate(row["texts"])
    )


def write(path, rows):
    if path.suffix == ".json":
        path.write_text(json.dumps(rows))
    else:
        path.write_text("\n\n".join(map(json.dumps, rows)))
    return str(path)


@pytest.mark.parametrize("file", ["a.jsonl", "a.json"])
def test_both_forms(tmp_path, file):
    path = write(tmp_path / file, [{"texts": ["a", "b"]}, {"texts": []}, {"texts": ["c"]}])
    records = list(row_files.load(path, parse))
    assert [(r.id, r.input) for r in records] == [("a-1-0", "a"), ("a-1-1", "b"), ("a-3-0", "c")]


def test_groups_are_on_one_side(tmp_path):
    rows = [{"texts": [f"{i}", f"{i}!"], "group": str(i % 50)} for i in range(400)]
    path = write(tmp_path / "a.jsonl", rows)
    corpus = RowFile(path=path, parse=parse, validation=0.25, group_by="group")
    sides = {split: list(corpus.read(split)) for split in corpus.splits}
    groups = {split: {int(r.input.rstrip("!")) % 50 for r in side} for split, side in sides.items()}
    assert not groups["train"] & groups["validation"]
    assert len(groups["train"] | groups["validation"]) == 50
    assert 3 <= len(groups["validation"]) <= 25
    assert sum(map(len, sides.values())) == 800
    assert {r.split_level for r in sides["validation"]} == {"held_out"}
    assert sides["train"][0].split_level == "train"


@pytest.mark.parametrize(("share", "splits"), [(0.0, ("train",)), (1.0, ("validation",))])
def test_one_side_alone(tmp_path, share, splits):
    path = write(tmp_path / "a.jsonl", [{"texts": ["a"]}])
    corpus = RowFile(path=path, parse=parse, validation=share)
    assert corpus.splits == splits
    assert len(list(corpus.read(splits[0]))) == 1


def test_fingerprint_follows_bytes_and_options(tmp_path):
    path = write(tmp_path / "a.jsonl", [{"texts": ["a"]}])
    corpora = [
        RowFile(path=path, parse=parse, validation=v, group_by=g) for v in (0, 0.1) for g in "ab"
    ]
    prints = [corpus.fingerprint() for corpus in corpora]
    write(tmp_path / "a.jsonl", [{"texts": ["b"]}])
    assert len({*prints, corpora[0].fingerprint()}) == 5


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("a.jsonl", '{"texts": []}\n[1]', r"a\.jsonl:2: expected a JSON object, got list"),
        ("a.jsonl", "{", r"a\.jsonl:1: not valid JSON"),
        (
            "a.json",
            "{\n}",
            r"a\.json:1: not valid JSON .* It is read as JSON lines, as it is no list",
        ),
        ("a.json", "[1]", r"a\.json\[0\]: expected an object, got int"),
        ("a.jsonl", '{"id": "x", "texts": ["a"]}\n' * 2, r":2: the id 'x-0' is already taken"),
    ],
)
def test_wrong_files(tmp_path, file, content, message):
    (tmp_path / file).write_text(content)
    with pytest.raises(ValueError, match=message):
        list(row_files.load(tmp_path / file, parse))


def test_share_out_of_range():
    with pytest.raises(ValueError, match="must be a share in"):
        RowFile(path="a", parse=parse, validation=2)
