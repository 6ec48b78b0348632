"""`prepare` end to end: shards, manifests, what a rerun does, what is refused."""

import functools
import importlib
import os
import re
import subprocess
import sys
import time

import numpy as np
import pytest
import seqio

from tests.prepare import reading
from ul2tune.data import files, manifest, vocab
from ul2tune.data.documents import FileCorpus
from ul2tune.data.ul2 import UL2Config, preset
from ul2tune.data.vocab import ByteVocabulary
from ul2tune.data.vocab_training import VocabularyConfig
from ul2tune.prepare import runners
from ul2tune.prepare.plan import make_plan
from ul2tune.prepare.progress import Progress
from ul2tune.prepare.run import prepare
from ul2tune.prepare.tasks import register_corpus_task, register_text_task

VOCABULARY = ByteVocabulary()


def test_shards_hold_the_corpus_and_manifests_describe_them(task, name, words, tmp_path):
    reading.run(name, tmp_path / "data", num_shards=3)
    train = reading.texts(tmp_path / "data", name)
    validation = reading.texts(tmp_path / "data", name, "validation")
    whole = [f"document {i} of the corpus" for i in range(200)]
    assert sorted(train + validation) == sorted(whole)
    assert 0 < len(validation) < 20
    entry = manifest.read_task(tmp_path / "data", name, "train")
    assert entry.num_examples == len(train) == sum(s.num_examples for s in entry.shards)
    assert len(entry.shards) == 3
    assert entry.features == {
        "targets": {
            "add_eos": False,  # the noise ends both sides itself
            "eos_after_trim": False,
            "max_tokens": max(map(len, train)),
            "max_id": 3 + max(max(text.encode()) for text in train),
            "tokens": sum(map(len, train)),
        }
    }
    assert UL2Config.from_json(entry.online["config"]) == preset("ul2")
    assert vocab.load(entry.vocabulary).fingerprint == VOCABULARY.fingerprint
    for shard in entry.shards:
        path = tmp_path / "data" / name / "train" / shard.file
        assert (path.stat().st_size, files.read_sha256(str(path)).hex()) == (
            shard.num_bytes,
            shard.sha256,
        )
    example = reading.examples(tmp_path / "data", name)[0]
    assert set(example.arrays) == {"targets"}  # raw: no noise, no end of sequence
    assert 1 not in example.arrays["targets"]
    assert example.fields["id"].startswith("words.jsonl:")
    mixture = manifest.read_mixture(tmp_path / "data", name)
    assert (mixture.tasks, mixture.rates) == ((name,), (1.0,))


def test_a_rerun_touches_nothing_and_is_fast(task, name, words, tmp_path, monkeypatch):
    reading.run(name, tmp_path / "data", num_shards=2)
    before = reading.snapshot(tmp_path / "data" / name)
    monkeypatch.setattr(runners, "run_here", None)  # any work would fail
    started = time.monotonic()
    reading.run(name, tmp_path / "data", num_shards=2)
    assert reading.snapshot(tmp_path / "data" / name) == before
    assert time.monotonic() - started < 2.0


def test_the_number_of_shards_changes_files_not_examples(task, name, tmp_path):
    reading.run(name, tmp_path / "data", num_shards=3)
    three = sorted(reading.texts(tmp_path / "data", name))
    reading.run(name, tmp_path / "data", num_shards=2)
    assert sorted(reading.texts(tmp_path / "data", name)) == three
    left = sorted(path.name for path in (tmp_path / "data" / name / "train").iterdir())
    suffix = manifest.read_task(tmp_path / "data", name, "train").fingerprint[:8]
    assert left == [
        f".data-00000-of-00002-{suffix}.json",
        f".data-00001-of-00002-{suffix}.json",
        f"data-00000-of-00002-{suffix}.arrayrecord",
        f"data-00001-of-00002-{suffix}.arrayrecord",
        "manifest.json",
    ]


def test_where_an_older_version_left_out_the_largest_ids_nothing_is_rewritten(task, name, tmp_path):
    reading.run(name, tmp_path, num_shards=2)
    for path in (tmp_path / name / "train").glob("*.json"):
        path.write_text(re.sub(r', "max_ids": {.*?}|"max_id": \d+,', "", path.read_text()))
        assert "max_id" not in path.read_text()
    before = reading.snapshot(tmp_path / name)
    reading.run(name, tmp_path, num_shards=2)
    assert reading.snapshot(tmp_path / name) == before


def test_changed_input_is_prepared_again(task, name, words, tmp_path):
    reading.run(name, tmp_path / "data")
    first = manifest.read_task(tmp_path / "data", name, "train")
    with open(words, "a") as file:
        file.write('{"text": "one more document"}\n')
    reading.run(name, tmp_path / "data")
    second = manifest.read_task(tmp_path / "data", name, "train")
    assert second.fingerprint != first.fingerprint
    assert "one more document" in reading.texts(tmp_path / "data", name)


def test_changed_noise_rewrites_the_manifest_only(name, words, tmp_path):
    for objective in ("ul2", "ul2r"):
        register_text_task(name, words, format="jsonl", vocabulary=VOCABULARY, objective=objective)
        reading.run(name, tmp_path / "data")
        shards = {
            k: v
            for k, v in reading.snapshot(tmp_path / "data" / name).items()
            if "manifest" not in k
        }
        entry = manifest.read_task(tmp_path / "data", name, "train")
        assert UL2Config.from_json(entry.online["config"]) == preset(objective)
        if objective == "ul2":
            before = shards
            seqio.TaskRegistry.remove(name)
    assert shards == before


@pytest.mark.parametrize("change", ["text", "noise", "rates", "version"])
def test_where_only_what_is_missing_is_asked_for_nothing_is_replaced(
    name, words, tmp_path, monkeypatch, change
):
    """What is of the task of today is completed."""
    data, mixed = tmp_path / "data", f"{name}_mixed"
    ask = {"vocabulary": VOCABULARY, "format": "jsonl"}
    names = [name, f"{name}_too"]
    for each in names:
        register_text_task(each, words, objective="ul2", **ask)
    seqio.MixtureRegistry.add(mixed, names, default_rate=1.0)
    reading.run(mixed, data, splits=("train",))
    monkeypatch.setenv(manifest.PREPARE, manifest.MISSING)
    reading.run(mixed, data, splits=("train", "validation"))
    (data / name / "validation" / "manifest.json").unlink()
    reading.run(mixed, data, splits=("validation",))
    before = reading.contents(data)
    splits = ("train",)
    if change == "text":
        with open(words, "a") as file:
            file.write('{"text": "one more document"}\n')
    elif change == "noise":
        seqio.TaskRegistry.remove(name)
        register_text_task(name, words, objective="ul2r", **ask)
        seqio.MixtureRegistry.remove(mixed)
        seqio.MixtureRegistry.add(mixed, names, default_rate=1.0)
    elif change == "rates":
        seqio.MixtureRegistry.remove(mixed)
        seqio.MixtureRegistry.add(mixed, [(names[0], 1.0), (names[1], 3.0)])
        splits = ("validation",)
    else:
        path = data / name / "train" / "manifest.json"
        path.write_text(path.read_text().replace('"format_version": 1', '"format_version": 0'))
        before = reading.contents(data)
    with pytest.raises(ValueError, match="or before its task, vocabulary or text changed; run"):
        reading.run(mixed, data, splits=splits)
    assert reading.contents(data) == before
    monkeypatch.delenv(manifest.PREPARE)
    reading.run(mixed, data, splits=splits)
    assert reading.contents(data) != before


def test_a_damaged_shard_is_made_again(task, name, tmp_path):
    reading.run(name, tmp_path / "data", num_shards=2)
    before = reading.contents(tmp_path / "data" / name)
    (path,) = (tmp_path / "data" / name / "train").glob("data-00001-*")
    path.write_bytes(path.read_bytes()[:-100])
    reading.run(name, tmp_path / "data", num_shards=2)
    assert reading.contents(tmp_path / "data" / name) == before
    # A flipped bit keeps the size: the manifest is believed, but not the receipt.
    flipped = bytearray(path.read_bytes())
    flipped[len(flipped) // 2] ^= 1
    path.write_bytes(flipped)
    (path.parent / "manifest.json").unlink()
    reading.run(name, tmp_path / "data", num_shards=2)
    assert reading.contents(tmp_path / "data" / name) == before


def test_trained_vocabulary_travels_with_the_data(name, words, tmp_path, monkeypatch):
    monkeypatch.setenv("UL2TUNE_CACHE_DIR", str(tmp_path / "cache"))
    config = VocabularyConfig(pieces=300)
    register_text_task(name, words, format="jsonl", vocabulary=config)
    reading.run(name, tmp_path / "data")
    for file in (tmp_path / "cache").rglob("*.model"):
        file.unlink()
    (tmp_path / "data").rename(tmp_path / "moved")
    assert "document 199 of the corpus" in reading.texts(tmp_path / "moved", name)


def test_metrics_eos_and_text_of_a_supervised_task(name, tmp_path):
    (tmp_path / "x.tsv").write_text("".join(f"question {i}\tanswer {i}\n" for i in range(9)))
    seqio.TaskRegistry.add(
        name,
        source=seqio.TextLineDataSource({"train": str(tmp_path / "x.tsv")}),
        preprocessors=[split_columns, seqio.preprocessors.tokenize, seqio.preprocessors.append_eos],
        output_features={
            "inputs": seqio.Feature(seqio.ByteVocabulary(), add_eos=False),
            "targets": seqio.Feature(seqio.ByteVocabulary(), add_eos=True),
        },
        metric_fns=[seqio_like_metric],
    )
    reading.run(name, tmp_path / "data")
    entry = manifest.read_task(tmp_path / "data", name, "train")
    assert entry.online is None
    assert entry.features["inputs"]["add_eos"] is False
    assert entry.features["targets"]["add_eos"] is True
    assert entry.metric_names == (f"{__name__}:seqio_like_metric",)
    first = reading.examples(tmp_path / "data", name)[0]
    assert first.fields == {"inputs_text": "question 0", "targets_text": ["answer 0"]}
    assert bytes(first.arrays["targets"].astype(np.uint8) - 3) == b"answer 0"
    # A split the task does not have is empty, as SeqIO leaves such a task out.
    assert manifest.read_task(tmp_path / "data", name, "validation").shards == ()


def split_columns(dataset):
    import tensorflow as tf

    def split(line):
        columns = tf.strings.split(line, "\t")
        return {"inputs": columns[0], "targets": columns[1]}

    return dataset.map(split)


def seqio_like_metric(targets, predictions):
    return {"equal": float(targets == predictions)}


def test_example_sharding_where_a_source_has_fewer_files(name, tmp_path):
    (tmp_path / "x.tsv").write_text("".join(f"q{i}\ta{i}\n" for i in range(10)))
    seqio.TaskRegistry.add(
        name,
        source=seqio.TextLineDataSource({"train": str(tmp_path / "x.tsv")}),
        preprocessors=[split_columns, seqio.preprocessors.tokenize],
        output_features={"targets": seqio.Feature(seqio.ByteVocabulary())},
    )
    reading.run(name, tmp_path / "data", num_shards=4, splits=("train",))
    assert sorted(reading.texts(tmp_path / "data", name)) == [f"a{i}" for i in range(10)]
    entry = manifest.read_task(tmp_path / "data", name, "train")
    assert [shard.num_examples for shard in entry.shards] == [3, 3, 2, 2]


def test_mixture_of_tasks(name, words, tmp_path):
    a = register_text_task(f"{name}_a", words, format="jsonl", vocabulary=VOCABULARY)
    b = register_corpus_task(
        f"{name}_b", FileCorpus(files=words, format="jsonl"), vocabulary=VOCABULARY
    )
    seqio.MixtureRegistry.add(name, [(a.name, 3.0), (b.name, 1)])
    reading.run(name, tmp_path / "data")
    mixture = manifest.read_mixture(tmp_path / "data", name)
    assert dict(zip(mixture.tasks, mixture.rates)) == {a.name: 0.75, b.name: 0.25}


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"mixture": "no_such_task"}, "No task or mixture 'no_such_task'"),
        ({"modules": ["no_such_module"]}, "TASK_MODULES names 'no_such_module'"),
        ({"data_dir": "gs://bucket/data"}, "local or mounted folder"),
        ({"num_shards": 0}, "num_shards must be at least 1"),
        ({"num_workers": -1}, "num_workers must not be negative"),
        ({"max_rejected_fraction": 5}, r"PREPARE_MAX_REJECTED .* is 5: it is a share"),
        ({"runner": "threads"}, 'runner must be "processes" or'),
        ({"splits": ("test",)}, "has a split 'test'"),
    ],
)
def test_wrong_arguments(task, name, tmp_path, kwargs, message):
    arguments = {"mixture": name, "modules": [], "data_dir": str(tmp_path / "data")} | kwargs
    with pytest.raises(ValueError, match=message):
        prepare(**arguments)


TASK_MODULE = """
import os, time
from ul2tune.data.vocab import ByteVocabulary
from ul2tune.prepare.tasks import register_text_task

class Slow(ByteVocabulary):
    def _encode(self, text):
        time.sleep(float(os.environ.get("SLOW_SECS", "0")))
        if os.environ.get("DIE_AT") == text:
            os.kill(os.getpid(), 9)
        return super()._encode(text)

register_text_task("slow", {words!r}, format="jsonl", vocabulary=Slow())
"""


@pytest.fixture
def slow(tmp_path, words, monkeypatch) -> str:
    """A module on the path that registers task `slow`."""
    (tmp_path / "slow_task.py").write_text(TASK_MODULE.format(words=words))
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "slow_task", raising=False)
    return "slow_task"


def prepare_slow(data_dir, num_workers=1):
    prepare("slow", ["slow_task"], str(data_dir), ("train",), 10, num_workers)


@pytest.mark.slow
def test_kill_and_go_on(slow, tmp_path):
    data_dir = tmp_path / "data"
    folder = data_dir / "slow" / "train"
    code = (
        "from ul2tune.prepare.run import prepare\n"
        f"prepare('slow', ['slow_task'], {str(data_dir)!r}, ('train',), 10, 1)\n"
    )
    path = os.pathsep.join([str(tmp_path), *filter(None, sys.path)])
    environment = os.environ | {"PYTHONPATH": path, "SLOW_SECS": "0.02"}
    with subprocess.Popen(
        [sys.executable, "-c", code], env=environment, stderr=subprocess.PIPE, text=True
    ) as process:
        deadline = time.monotonic() + 120
        while len(list(folder.glob(".data-*.json"))) < 3 and time.monotonic() < deadline:
            assert process.poll() is None, process.stderr.read()
            time.sleep(0.02)
        process.kill()
    assert process.returncode == -9
    killed = {n: v for n, v in reading.snapshot(folder).items() if n.startswith("data-")}
    receipts = list(folder.glob(".data-*.json"))
    assert 3 <= len(receipts) < 10
    assert not (folder / "manifest.json").exists()
    # Go on here, and prepare somewhere else without interruption: the same bytes.
    prepare_slow(data_dir)
    prepare_slow(tmp_path / "b")
    assert reading.contents(data_dir) == reading.contents(tmp_path / "b")
    after = reading.snapshot(folder)
    finished = [r.name.removeprefix(".").removesuffix(".json") + ".arrayrecord" for r in receipts]
    assert all(after[file] == killed[file] for file in finished)  # not made again
    assert not list(folder.glob("*.tmp"))


@pytest.mark.slow
def test_a_pool_makes_the_same_bytes_and_survives_a_workers_death(
    slow, tmp_path, monkeypatch, capfd
):
    monkeypatch.setenv("DIE_AT", "document 55 of the corpus")
    importlib.import_module("slow_task")
    plan = make_plan(seqio.TaskRegistry.get("slow"), "train", 10)
    work = runners.works(plan, ["slow_task"], str(tmp_path / "data"))
    progress = Progress(title="slow", num_shards=10)
    with pytest.raises(ValueError, match="A process that prepared data was killed"):
        list(runners.run_in_processes(work, 1, progress))
    assert not (tmp_path / "data" / "slow" / "train" / "manifest.json").exists()
    monkeypatch.delenv("DIE_AT")
    prepare_slow(tmp_path / "data", num_workers=2)
    assert "10/10 shards" in capfd.readouterr().err
    prepare_slow(tmp_path / "b")
    assert reading.contents(tmp_path / "data") == reading.contents(tmp_path / "b")


def test_one_prepare_per_folder_at_a_time(task, name, tmp_path, capfd):
    import fcntl
    import threading

    (tmp_path / "data").mkdir()
    with (tmp_path / "data" / ".prepare.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        thread = threading.Thread(target=reading.run, args=(name, tmp_path / "data"))
        thread.start()
        thread.join(timeout=1.0)
        assert thread.is_alive()
        assert not (tmp_path / "data" / name).exists()
    thread.join(timeout=60)
    assert (tmp_path / "data" / name / "train" / "manifest.json").exists()
    assert "Waiting for another process" in capfd.readouterr().err


def test_a_tfds_source(name, tmp_path):
    tfds = pytest.importorskip("tensorflow_datasets")
    tf = pytest.importorskip("tensorflow")
    rows = tf.data.Dataset.from_tensor_slices({"q": ["1+1", "2+2", "3+3"], "a": ["2", "4", "6"]})
    tfds.dataset_builders.store_as_tfds_dataset(
        name="sums",
        version="1.0.0",
        features=tfds.features.FeaturesDict({"q": tfds.features.Text(), "a": tfds.features.Text()}),
        split_datasets={"train": rows.take(3), "validation": rows.take(1)},
        data_dir=str(tmp_path / "tfds"),
    )
    rekey = functools.partial(seqio.preprocessors.rekey, key_map={"inputs": "q", "targets": "a"})
    seqio.TaskRegistry.add(
        name,
        source=seqio.TfdsDataSource("sums:1.0.0", tfds_data_dir=str(tmp_path / "tfds")),
        preprocessors=[rekey, seqio.preprocessors.tokenize],
        output_features={k: seqio.Feature(seqio.ByteVocabulary()) for k in ("inputs", "targets")},
    )
    reading.run(name, tmp_path / "data")
    assert sorted(reading.texts(tmp_path / "data", name)) == ["2", "4", "6"]
    assert len(reading.texts(tmp_path / "data", name, "validation")) == 1
