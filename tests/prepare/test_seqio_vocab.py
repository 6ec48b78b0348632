"""Our vocabularies in SeqIO, and SeqIO's in manifests."""

import pickle

import numpy as np
import pytest
import seqio
import tensorflow as tf

from ul2tune.data.vocab import ByteVocabulary
from ul2tune.prepare.seqio_vocab import SeqioVocabulary, from_seqio


def test_nothing_is_made_before_it_is_used():
    calls = []

    def make():
        calls.append(1)
        return ByteVocabulary()

    vocabulary = SeqioVocabulary(make)
    seqio.Feature(vocabulary)
    assert not calls
    assert vocabulary.vocab_size == 384
    assert vocabulary.encode("a") == [100]
    assert len(calls) == 1


def test_python_and_tensorflow_agree():
    vocabulary = SeqioVocabulary(ByteVocabulary(extra_ids=9))
    text = "naïve ▁ text\n"
    ids = vocabulary.encode_tf(tf.constant(text))
    assert ids.numpy().tolist() == vocabulary.encode(text)
    assert ids.dtype == tf.int32
    assert vocabulary.decode_tf(ids).numpy().decode() == text
    # In a dataset the shape is known to be one-dimensional.
    dataset = tf.data.Dataset.from_tensors(text).map(vocabulary.encode_tf)
    assert dataset.element_spec.shape.rank == 1
    batch = tf.stack([ids, ids])
    assert [t.decode() for t in vocabulary.decode_tf(batch).numpy()] == [text] * 2


def test_nul_characters_at_the_end_of_a_text_are_text():
    vocabulary = SeqioVocabulary(ByteVocabulary())
    text = "\0ab\0\0"
    (ids,) = tf.data.Dataset.from_tensors(text).map(vocabulary.encode_tf).as_numpy_iterator()
    assert ids.tolist() == vocabulary.encode_tf(tf.constant(text)).numpy().tolist()
    assert ids.tolist() == vocabulary.encode(text) == [3, 100, 101, 3, 3]


def test_sizes_as_seqio_and_t5_count_them():
    vocabulary = SeqioVocabulary(ByteVocabulary(extra_ids=9))
    theirs = seqio.ByteVocabulary(extra_ids=9)
    assert vocabulary.vocab_size == theirs.vocab_size == 268
    assert (vocabulary.eos_id, vocabulary.pad_id, vocabulary.unk_id) == (1, 0, 2)
    assert vocabulary.encode("hi") == list(theirs.encode("hi"))
    sentinel = vocabulary.vocab_size - 1
    assert vocabulary.decode(np.array([sentinel, 107, 1, 5])) == "<extra_id_0>h"


def test_equality_and_pickling():
    vocabulary = SeqioVocabulary(ByteVocabulary())
    assert vocabulary == SeqioVocabulary(ByteVocabulary())
    assert vocabulary != SeqioVocabulary(ByteVocabulary(extra_ids=1))
    assert vocabulary != seqio.ByteVocabulary(extra_ids=125)
    copy = pickle.loads(pickle.dumps(vocabulary))
    assert copy == vocabulary
    assert copy.encode("x") == vocabulary.encode("x")


def test_twins_of_seqio_vocabularies(shared):
    path = str(shared / "data/tokenizer/seqio_test_sentencepiece.model")
    theirs = seqio.SentencePieceVocabulary(path, extra_ids=10)
    ours = from_seqio(theirs)
    assert ours.info.vocab_size == theirs.vocab_size == 36
    text = "this is a test"
    assert ours.encode(text) == theirs.encode(text)
    assert from_seqio(seqio.ByteVocabulary(extra_ids=3)).info.vocab_size == 262
    assert from_seqio(seqio.PassThroughVocabulary(77)).base_size == 77


def test_a_vocabulary_without_a_twin_is_refused():
    with pytest.raises(ValueError, match="FullCodepointVocabulary cannot be prepared"):
        from_seqio(seqio.FullCodepointVocabulary())
