"""Our vocabularies in SeqIO, and SeqIO's in manifests."""

import pickle

import numpy as np
import pytest
import seqio
import tensorflow as tf

from ul2tune.data.vocab import ByteVocabulary
from ul2tune.prepare.seqio_vocab import SeqioVocabulary, from_seqio

T5_MODEL = "data/tokenizer/sentencepiece_cc_all.32000.100extra-sentencepiece.model"


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


def test_a_model_that_ends_in_sentinels_keeps_them(shared):
    """As mT5's: in SeqIO its `extra_ids` are 0, and more of them would name the same pieces."""
    path = str(shared / T5_MODEL)
    theirs = seqio.SentencePieceVocabulary(path)
    ours = from_seqio(theirs)
    assert ours.info.vocab_size == theirs.vocab_size == 32101
    assert ours.info.num_sentinels == 100
    text = "a test"
    assert ours.encode(text) == theirs.encode(text)
    (sentinel,) = ours.encode("<extra_id_7>", specials=True)
    assert sentinel == ours.info.sentinels[7] == theirs.tokenizer.PieceToId("▁<extra_id_7>")


@pytest.mark.parametrize(("eos", "expected"), [(None, 1), (1, 1), (76, 76)])
def test_ids_from_elsewhere_keep_their_end_of_sequence(eos, expected):
    ours = from_seqio(seqio.PassThroughVocabulary(77, eos_id=eos))
    assert (ours.base_size, ours.eos_id, ours.info.eos_id) == (77, expected, expected)


def test_a_normalizer_of_its_own_has_no_twin(shared):
    override = type("NormalizerSpec", (), {"remove_extra_whitespaces": False})()
    theirs = seqio.SentencePieceVocabulary(
        str(shared / T5_MODEL), normalizer_spec_overrides=override
    )
    with pytest.raises(ValueError, match="overrides the model's normalizer"):
        from_seqio(theirs)


def test_sentinels_that_count_upwards_have_no_twin(shared):
    path = str(shared / T5_MODEL)
    theirs = seqio.SentencePieceVocabulary(path, extra_ids=10, reverse_extra_ids=False)
    with pytest.raises(ValueError, match=r"numbers its sentinels upwards \(reverse_extra_ids"):
        from_seqio(theirs)


def test_a_vocabulary_without_a_twin_is_refused():
    with pytest.raises(ValueError, match="FullCodepointVocabulary cannot be prepared"):
        from_seqio(seqio.FullCodepointVocabulary())
