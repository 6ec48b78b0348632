"""SeqIO's own data sources: what they hold beside their files must not get into the way."""

from __future__ import annotations

import pytest
import seqio
import tensorflow as tf

from tests.prepare import reading
from ul2tune.data import manifest
from ul2tune.prepare.identity import identity
from ul2tune.prepare.plan import make_plan


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


class Corpus:
    def __init__(self, number):
        self.number = number

    def fingerprint(self):
        return self.number


def test_a_class_is_told_by_its_code_and_an_object_by_its_fingerprint():
    assert "Corpus" in str(identity(Corpus))
    assert identity(Corpus) != identity(tf.data.TFRecordDataset)
    assert identity(Corpus(1)) != identity(Corpus(2))
