"""The text of a collection as a corpus."""

from __future__ import annotations

import json

import pytest

from ul2tune.data.documents import Rejections
from ul2tune.prepare.record_text import RecordText
from ul2tune.prepare.superni_tasks import training_text


def write(folder, name: str, inputs: list[str]):
    rows = [{"id": f"{name}-{i}", "input": x, "output": [f"a{i}"]} for i, x in enumerate(inputs)]
    content = {
        "Definition": [f"Do {name}."],
        "Categories": ["Word Analogy"],
        "Positive Examples": [{"input": "p", "output": "q", "explanation": ""}],
        "Instances": rows,
    }
    (folder / "tasks" / f"{name}.json").write_text(json.dumps(content))


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "tasks").mkdir()
    (tmp_path / "splits" / "default").mkdir(parents=True)
    for name, inputs in (("task1", ["x", "y"]), ("task2", ["z"]), ("task3", ["held out"])):
        write(tmp_path, name, inputs)
    (tmp_path / "splits/default/train_tasks.txt").write_text("task1\ntask2\n")
    (tmp_path / "splits/default/test_tasks.txt").write_text("task3\n")
    return tmp_path


def test_every_thing_is_said_once_and_nothing_held_out(folder):
    corpus, rejections = training_text(folder), Rejections()
    documents = list(corpus.read(rejections))
    assert [document.name for document in documents] == [
        "task1/task1-0:prompt", "task1/task1-0", "task1/task1-1",
        "task2/task2-0:prompt", "task2/task2-0",
    ]  # fmt: skip
    assert documents[0].text.startswith("Definition: Do task1.\n\n Positive Example 1 -")
    assert documents[0].text.endswith("Input: x.\nOutput: a0")
    assert documents[2].text == "y\na1"
    assert not any("held out" in document.text for document in documents)
    size = sum(len(document.text) for document in documents)
    assert rejections.num_bytes == corpus.num_bytes() == size
    parts = [list(corpus.read(Rejections(), shard=i, num_shards=2)) for i in range(2)]
    assert sorted(d.name for part in parts for d in part) == sorted(d.name for d in documents)


def test_the_fingerprint_sees_the_training_tasks(folder):
    before = training_text(folder).fingerprint()
    assert training_text(folder).fingerprint() == before
    assert training_text(folder, train_limit=1).fingerprint() != before
    write(folder, "task3", ["changed"])
    assert training_text(folder).fingerprint() == before
    write(folder, "task2", ["changed"])
    assert training_text(folder).fingerprint() != before


def test_a_collection_is_read_once_to_know_its_size(folder, monkeypatch):
    corpus, read = training_text(folder), RecordText._documents
    reads = []
    monkeypatch.setattr(RecordText, "_documents", lambda self: reads.append(1) or read(self))
    before = corpus.num_bytes()
    assert [corpus.num_bytes() for _ in range(3)] == [before] * 3
    assert len(reads) == 1
    write(folder, "task2", ["a longer text"])
    assert corpus.num_bytes() == before + 2 * (len("a longer text") - len("z"))
    assert len(reads) == 2
