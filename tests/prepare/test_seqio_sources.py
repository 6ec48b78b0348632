"""SeqIO's own data sources: what they hold beside their files must not get into the way."""

from __future__ import annotations

import traceback
from typing import Any

import pytest
import seqio
import tensorflow as tf

from tests.prepare import reading
from ul2tune.data import manifest
from ul2tune.prepare import inputs, runners
from ul2tune.prepare.identity import identity
from ul2tune.prepare.plan import make_plan
from ul2tune.prepare.run import prepare


def write_records(path, texts):
    with tf.io.TFRecordWriter(str(path)) as writer:
        for text in texts:
            value = tf.train.Feature(bytes_list=tf.train.BytesList(value=[text.encode()]))
            features = tf.train.Features(feature={"targets": value})
            writer.write(tf.train.Example(features=features).SerializeToString())


def of_examples(files):
    columns = {"targets": tf.io.FixedLenFeature([], tf.string)}
    return seqio.TFExampleDataSource({"train": files}, feature_description=columns)


def of_protos(files):
    columns = {"targets": tf.io.FixedLenFeature([], tf.string)}
    return seqio.ProtoDataSource(
        {"train": files}, decode_proto_fn=lambda record: tf.io.parse_single_example(record, columns)
    )


@pytest.mark.parametrize("make", [of_examples, of_protos])
def test_records_of_tensorflow(name, tmp_path, make):
    write_records(tmp_path / "x-0.tfrecord", ["one", "two"])
    write_records(tmp_path / "x-1.tfrecord", ["three"])
    seqio.TaskRegistry.add(
        name,
        source=make(str(tmp_path / "x-*.tfrecord")),
        preprocessors=[seqio.preprocessors.tokenize, seqio.preprocessors.append_eos],
        output_features={"targets": seqio.Feature(seqio.ByteVocabulary())},
    )
    reading.run(name, tmp_path / "data", splits=("train",))
    assert sorted(reading.texts(tmp_path / "data", name)) == ["one", "three", "two"]
    before = manifest.read_task(tmp_path / "data", name, "train").fingerprint
    task = seqio.TaskRegistry.get(name)
    assert make_plan(task, "train").fingerprint == before
    write_records(tmp_path / "x-1.tfrecord", ["three", "four"])
    assert make_plan(task, "train").fingerprint != before


def lines_of(name, path, *steps):
    source: Any = seqio.TextLineDataSource({"train": str(path)})
    seqio.TaskRegistry.add(
        name,
        source=source,
        preprocessors=[*steps, seqio.preprocessors.tokenize],
        output_features={"targets": seqio.Feature(seqio.ByteVocabulary())},
    )


def two_columns(dataset):
    return dataset.map(lambda line: {"targets": tf.io.decode_csv(line, ["", ""])[0]})


def in_python(dataset):
    def parse(line):
        return line.no_such_method()

    def column(line):
        return {"targets": tf.ensure_shape(tf.numpy_function(parse, [line], tf.string), [])}

    return dataset.map(column)


def nested(dataset):
    return dataset.map(
        lambda line: {"targets": line, "answers": {"text": [line, line], "start": [1.5, 2.0]}}
    )


def complex_numbers(dataset):
    return dataset.map(lambda line: {"targets": line, "z": tf.complex(1.0, 2.0)})


def test_fields_in_fields_are_kept_and_what_json_lacks_is_named(name, tmp_path):
    (tmp_path / "x.txt").write_text("a\n")
    lines_of(name, tmp_path / "x.txt", nested)
    reading.run(name, tmp_path / "data", splits=("train",))
    (example,) = reading.examples(tmp_path / "data", name)
    assert example.fields["answers"] == {"text": ["a", "a"], "start": [1.5, 2.0]}
    lines_of(f"{name}_z", tmp_path / "x.txt", complex_numbers)
    expected = (
        rf"Task '{name}_z' \(split 'train'\): field 'z' holds complex, which cannot be stored: "
    )
    with pytest.raises(ValueError, match=expected):
        reading.run(f"{name}_z", tmp_path / "data", splits=("train",))


def stops(dataset):
    raise RuntimeError("the tokenizer's own trouble")


def test_a_failed_step_in_python_leaves_no_iterator_behind(name, tmp_path):
    """One that the traceback kept until the process ends would wait for its threads for ever."""
    (tmp_path / "x.txt").write_text("a\n")
    lines_of(name, tmp_path / "x.txt", in_python)
    with pytest.raises(tf.errors.OpError) as caught:
        reading.run(name, tmp_path / "data", splits=("train",))
    frames = [frame for frame, _ in traceback.walk_tb(caught.value.__traceback__)]
    held = [value for frame in frames for value in frame.f_locals.values()]
    assert held
    assert not [value for value in held if isinstance(value, tf.data.Iterator)]


def test_a_missing_file_is_a_sentence(name, tmp_path):
    lines_of(name, tmp_path / "none.txt", two_columns)
    expected = rf"'{name}' cannot be read \(split 'train'\).*{tmp_path}/none.txt; No such file or d"
    with pytest.raises(ValueError, match=expected) as caught:
        reading.run(name, tmp_path / "data", splits=("train",))
    assert "[Op:" not in str(caught.value)
    assert not [*tmp_path.rglob("*.tmp"), *tmp_path.rglob("*.arrayrecord")]


def test_a_record_that_a_preprocessor_refuses_is_a_sentence(name, tmp_path):
    (tmp_path / "x.csv").write_text("a,b\nc,d,e\n")
    lines_of(name, tmp_path / "x.csv", two_columns)
    expected = rf"Task '{name}' cannot be read .* Expect 2 fields but have 3 in record 0\. Check"
    with pytest.raises(ValueError, match=expected):
        reading.run(name, tmp_path / "data", splits=("train",))


@pytest.mark.parametrize(
    ("step", "kind", "says"),
    [
        (in_python, tf.errors.OpError, "no_such_method"),
        (stops, RuntimeError, "the tokenizer's own trouble"),
    ],
)
def test_a_mistake_in_a_preprocessor_keeps_its_own_error(name, tmp_path, step, kind, says):
    """With its lines: neither the data's fault nor the disk's."""
    (tmp_path / "x.txt").write_text("a\n")
    lines_of(name, tmp_path / "x.txt", step)
    with pytest.raises(kind, match=says) as caught:
        reading.run(name, tmp_path / "data", splits=("train",))
    assert not isinstance(caught.value, OSError)
    assert caught.value.__notes__ == [f"Task '{name}' (split 'train')"]


def refuses(dataset):
    raise ValueError("no such language")


def test_what_a_preprocessor_refuses_names_the_task(name, tmp_path):
    """Whose it is: a mixture has a thousand."""
    (tmp_path / "x.txt").write_text("a\n")
    lines_of(name, tmp_path / "x.txt", refuses)
    with pytest.raises(ValueError, match=rf"Task '{name}' \(split 'train'\): no such language"):
        reading.run(name, tmp_path / "data", splits=("train",))


def test_small_files_are_not_worth_processes(name, tmp_path, monkeypatch):
    """TensorFlow in each of them takes longer than the records."""
    (tmp_path / "x-0.txt").write_text("a\n" * 50)
    (tmp_path / "x-1.txt").write_text("b\n" * 20)
    lines_of(name, tmp_path / "x-*.txt", lambda dataset: dataset.map(lambda x: {"targets": x}))
    assert inputs.num_bytes(seqio.TaskRegistry.get(name).source, "train") == 140
    monkeypatch.setattr(runners, "run_in_processes", lambda *_: pytest.fail("not here"))
    monkeypatch.setattr(runners.os, "sched_getaffinity", lambda _: set(range(8)))
    prepare(name, [], str(tmp_path / "data"), splits=("train",))
    assert len(reading.texts(tmp_path / "data", name)) == 70


class Corpus:
    def __init__(self, number):
        self.number = number

    def fingerprint(self):
        return self.number


def test_a_class_is_told_by_its_code_and_an_object_by_its_fingerprint():
    assert "Corpus" in str(identity(Corpus))
    assert identity(Corpus) != identity(tf.data.TFRecordDataset)
    assert identity(Corpus(1)) != identity(Corpus(2))
