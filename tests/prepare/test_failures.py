"""What `prepare` refuses, how it says so, and what is left afterwards."""

import gzip
import json
from pathlib import Path

import pytest
import seqio
import tensorflow as tf

from tests.prepare import reading
from ul2tune.data import manifest
from ul2tune.data.documents import MAX_REMEMBERED, FileCorpus
from ul2tune.data.vocab import ByteVocabulary
from ul2tune.data.vocab_training import VocabularyConfig
from ul2tune.prepare import shards as shard_files
from ul2tune.prepare.shards import Receipt
from ul2tune.prepare.tasks import register_text_task, seqio_vocabulary

VOCABULARY = ByteVocabulary()


def test_malformed_records(name, tmp_path, capfd):
    lines = [f'{{"text": "good {i}"}}' for i in range(50)]
    lines[7], lines[31] = '{"text": "cut', '{"text": ["list"]}'
    path = tmp_path / "x.jsonl"
    path.write_text("\n".join(lines))
    register_text_task(name, str(path), format="jsonl", vocabulary=VOCABULARY)
    with pytest.raises(ValueError, match=r"2 of 50 records are malformed \(4\.00%\)") as caught:
        reading.run(name, tmp_path / "data", num_shards=2)
    assert "PREPARE_MAX_REJECTED=0.04 " in str(caught.value)
    places = capfd.readouterr().err + str(caught.value)
    assert places.count(f"{path}:8: bad JSON") == 1
    with pytest.raises(FileNotFoundError):
        manifest.read_task(tmp_path / "data", name, "train")
    reading.run(name, tmp_path / "data", num_shards=2, max_rejected_fraction=0.05)
    entry = manifest.read_task(tmp_path / "data", name, "train")
    assert entry.rejected == {"bad JSON": 1, "wrong type": 1}
    assert entry.num_records == 50
    assert f"{path}:8: bad JSON" in "".join(entry.rejected_examples)
    assert f"{path}:32: wrong type ('text' is list, not a string)" in capfd.readouterr().err
    assert len(reading.texts(tmp_path / "data", name)) <= 48
    # What is there is measured by the limit of today.
    before = reading.contents(tmp_path / "data")
    with pytest.raises(ValueError, match="2 of 50 records are malformed"):
        reading.run(name, tmp_path / "data", num_shards=2)
    assert reading.contents(tmp_path / "data") == before


def test_every_shard_tells_its_own_malformed_records(name, tmp_path, capfd):
    """More of them than are remembered, and every split reads them all."""
    path = tmp_path / "x.jsonl"
    lines = [f'{{"text": "good {i}"}}' if i % 4 < 2 else "bad" for i in range(100)]
    path.write_text("\n".join(lines))
    register_text_task(
        name, str(path), format="jsonl", vocabulary=VOCABULARY, validation_fraction=0.5
    )
    reading.run(name, tmp_path / "data", num_shards=2, max_rejected_fraction=0.5)
    train, validation = (
        manifest.read_task(tmp_path / "data", name, split) for split in ("train", "validation")
    )
    assert len(train.rejected_examples) == MAX_REMEMBERED
    assert validation.rejected_examples == train.rejected_examples
    assert validation.rejected == train.rejected == {"bad JSON": 50}
    assert validation.num_records == train.num_records == 100
    receipts = [
        Receipt.from_json(json.loads(file.read_text()))
        for file in sorted((tmp_path / "data").glob("*/*/.data-*.json"))
    ]
    assert [receipt.num_records for receipt in receipts] == [50] * 4
    assert all(len(receipt.rejected_examples) == MAX_REMEMBERED for receipt in receipts)
    assert capfd.readouterr().err.count(f"{path}:3: bad JSON") == 2


def test_more_than_half_may_be_malformed_where_it_is_allowed(name, tmp_path):
    path = tmp_path / "x.jsonl"
    path.write_text('{"text": "good"}\n{"txt": "bad"}\n{"txt": "bad"}\n' * 4_000)
    register_text_task(
        name, str(path), format="jsonl", vocabulary=VOCABULARY, validation_fraction=0.0
    )
    with pytest.raises(ValueError, match=r"Reading ended early at .*x\.jsonl:10001"):
        reading.run(name, tmp_path / "data", max_rejected_fraction=0.6)
    reading.run(name, tmp_path / "data", max_rejected_fraction=0.7)
    assert manifest.read_task(tmp_path / "data", name, "train").num_examples == 4_000


@pytest.mark.parametrize("damage", ["malformed", "cut"])
def test_a_failure_leaves_what_was_prepared_before(name, tmp_path, damage):
    lines = [f'{{"text": "good {i}"}}\n' for i in range(300)]
    path = tmp_path / "x.jsonl.gz"
    whole = gzip.compress("".join(lines).encode())
    path.write_bytes(whole)
    register_text_task(name, str(path), format="jsonl", vocabulary=VOCABULARY)
    reading.run(name, tmp_path / "data", num_shards=2)
    before = reading.contents(tmp_path / "data" / name)
    if damage == "malformed":
        path.write_bytes(gzip.compress("".join([*lines, "{\n" * 100]).encode()))
    else:
        path.write_bytes(whole[:-8])
    with pytest.raises(ValueError, match=r"records are malformed|is damaged"):
        reading.run(name, tmp_path / "data", num_shards=2)
    after = reading.contents(tmp_path / "data" / name)
    assert before.items() <= after.items()
    assert not any(found.endswith(".tmp") for found in after)
    # Undone: what the failure left is cleared away.
    path.write_bytes(whole)
    reading.run(name, tmp_path / "data", num_shards=2)
    assert reading.contents(tmp_path / "data" / name) == before


@pytest.mark.parametrize("splits", [("tets",), ("train", "tets")])
def test_a_split_that_no_task_has(task, name, tmp_path, splits):
    expected = rf"No task of '{name}' has a split 'tets' .*--split.* have: 'train', 'validation'\."
    with pytest.raises(ValueError, match=expected):
        reading.run(name, tmp_path / "data", splits=splits)
    reading.run(name, tmp_path / "data", splits=("train",))
    before = reading.contents(tmp_path / "data")
    with pytest.raises(ValueError, match=expected):
        reading.run(name, tmp_path / "data", splits=splits)
    assert reading.contents(tmp_path / "data") == before


def test_no_split_at_all(task, name, tmp_path):
    with pytest.raises(ValueError, match=rf"no split: .*{name!r} have: 'train', 'validation'\."):
        reading.run(name, tmp_path / "data", splits=())
    assert not (tmp_path / "data").exists()


def register_one_split(name, split):
    source = seqio.FunctionDataSource(
        lambda split, shuffle_files: tf.data.Dataset.from_tensors({"targets": "a b"}),
        splits=[split],
    )
    vocabulary = seqio.ByteVocabulary()
    features = {"targets": seqio.Feature(vocabulary, add_eos=False)}
    steps = [seqio.preprocessors.tokenize]
    seqio.TaskRegistry.add(name, source, output_features=features, preprocessors=steps)


@pytest.mark.parametrize("split", ["train", "test"])
def test_validation_alone_may_not_be_missing(name, tmp_path, split):
    register_one_split(name, split)
    with pytest.raises(ValueError, match=rf"has a split 'validation' .* have: '{split}'"):
        reading.run(name, tmp_path / "data", splits=("validation",))
    assert not (tmp_path / "data").exists()


def test_validation_may_be_missing_beside_what_is_trained_on(name, tmp_path):
    register_one_split(name, "train")
    data = tmp_path / "data"
    reading.run(name, data, splits=("train",))
    # A run asks for both, and has what is missing prepared.
    reading.run(name, data, splits=("validation",))
    assert manifest.read_task(data, name, "validation").num_examples == 0


def test_a_missing_file_is_a_readable_error(name, tmp_path):
    register_text_task(name, str(tmp_path / "none*.txt"), vocabulary=VOCABULARY)
    with pytest.raises(ValueError, match="No file matches"):
        reading.run(name, tmp_path / "data")


@pytest.mark.parametrize("shared", [True, False])
def test_a_vocabulary_trained_for_several_tasks(name, words, tmp_path, monkeypatch, shared):
    monkeypatch.setenv("UL2TUNE_CACHE_DIR", str(tmp_path / "cache"))
    more = tmp_path / "more.jsonl"
    more.write_text("".join(f'{{"text": "line {i} of another text"}}\n' for i in range(200)))
    vocabulary = VocabularyConfig(pieces=290)
    if shared:
        corpus = FileCorpus(files=(words, str(more)), format="jsonl")
        vocabulary = seqio_vocabulary(vocabulary, corpus)
    tasks = {f"{name}_a": words, f"{name}_b": str(more)}
    for task, file in tasks.items():
        register_text_task(task, file, format="jsonl", vocabulary=vocabulary)
    seqio.MixtureRegistry.add(name, [*tasks], default_rate=1.0)
    data = tmp_path / "data"
    if shared:
        reading.run(name, data)
        found = [manifest.read_task(data, task, "train").vocabulary for task in tasks]
        assert found[0] == found[1]
        return
    with pytest.raises(ValueError, match=r"different vocabularies .* register both") as caught:
        reading.run(name, data)
    assert all(f"'{task}'" in str(caught.value) for task in tasks)
    assert not list(data.rglob("*.arrayrecord"))


@pytest.mark.parametrize(
    ("file", "content", "reason"),
    [
        ("x.jsonl", b"", "no records, as in an empty file."),
        ("x.jsonl.gz", gzip.compress(b"", mtime=0), "no records, as in an empty file."),
        (
            "x.jsonl",
            b'{"txt": "a"}\n{\n{"text": ""}\n{',
            "all records were rejected (2 bad JSON, 1 empty, 1 wrong type). First, {file}:1: wrong "
            "type ('text' is missing; text_key could name 'txt').",
        ),
        (
            "x.jsonl",
            b'{"text": "a"}\n',
            "all documents are in another split (validation_fraction = 0).",
        ),
    ],
)
def test_no_examples_at_all_names_the_files(name, tmp_path, file, content, reason):
    path = tmp_path / file
    path.write_bytes(content)
    register_text_task(
        name, str(path), format="jsonl", vocabulary=VOCABULARY, validation_fraction=0
    )
    splits = ("validation",) if b"text" in content else ("train", "validation")
    with pytest.raises(ValueError, match="has no examples in splits") as caught:
        reading.run(name, tmp_path / "data", splits=splits, max_rejected_fraction=1)
    said = f"'{name}' has no examples in splits {splits}. '{name}' read {path}: "
    assert str(caught.value) == said + reason.format(file=path)


def test_a_damaged_archive_is_a_readable_error(name, tmp_path):
    (tmp_path / "x.txt.gz").write_bytes(b"no archive")
    register_text_task(name, str(tmp_path / "x.txt.gz"), vocabulary=VOCABULARY)
    with pytest.raises(ValueError, match="is damaged or not what its name says"):
        reading.run(name, tmp_path / "data")


def test_an_unwritable_disk_is_an_os_error(task, name, tmp_path, monkeypatch):
    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full on this system")
    replace = shard_files.ArrayRecordWriter
    monkeypatch.setattr(
        shard_files, "ArrayRecordWriter", lambda path, options: replace("/dev/full", options)
    )
    with pytest.raises(OSError, match="Is the disk full"):
        reading.run(name, tmp_path / "data")


@pytest.mark.parametrize("data_dir", ["/proc/x", "file", "file/x"])
def test_a_folder_that_cannot_be_written_is_named(task, name, tmp_path, data_dir):
    (tmp_path / "file").touch()
    folder = tmp_path / data_dir
    with pytest.raises(ValueError, match=f"DATA_DIR = '{folder}' cannot be written to .*Give a"):
        reading.run(name, folder)
