"""A task with added tokens, prepared: the data folder describes the vocabulary on its own."""

from __future__ import annotations

import pytest
import seqio

from ul2tune.data import manifest, vocab, vocab_training
from ul2tune.data.documents import FileCorpus
from ul2tune.data.vocab_extended import extend
from ul2tune.evaluation import splits
from ul2tune.prepare.run import prepare
from ul2tune.prepare.runtime import tf
from ul2tune.prepare.seqio_vocab import SeqioVocabulary
from ul2tune.prepare.tasks import register_text_task

pytestmark = pytest.mark.tensorflow


def test_prepare_keeps_a_copy_of_the_base(name, words, tmp_path):
    corpus = FileCorpus(files=words, format="jsonl")
    config = vocab_training.VocabularyConfig(pieces=300, extra_ids=20)
    base = vocab_training.trained_vocabulary(corpus, config, tmp_path / "cache")
    vocabulary = extend(base, ("document", " the"))
    register_text_task(name, words, format="jsonl", vocabulary=vocabulary, objective="ul2")
    data_dir = tmp_path / "data"
    prepare(name, [], str(data_dir), splits=("train",), num_workers=1)
    description = manifest.read_task(data_dir, name, "train").vocabulary
    assert description["base"]["file"] == f"vocabularies/{base.fingerprint}.model"
    loaded = vocab.load(description, root=data_dir)
    assert loaded.fingerprint == vocabulary.fingerprint
    assert loaded.encode("document 3")[0] == base.size
    assert splits.vocabulary_of(name, str(data_dir)).rows == vocabulary.rows


def test_seqio_sees_the_same_ids():
    vocabulary = extend(vocab.ByteVocabulary(extra_ids=3, modes=()), ("\n",))
    wrapped = SeqioVocabulary(vocabulary)
    text = "a\nb"
    assert wrapped.encode_tf(text).numpy().tolist() == vocabulary.encode(text)
    ids = tf.constant([[*vocabulary.encode(text), 1, 100]])
    assert wrapped.decode_tf(ids).numpy().tolist() == [text.encode()]
    assert wrapped.vocab_size == 262  # sentinels are counted down from here
    assert wrapped.vocabulary.size == 263
    assert isinstance(wrapped, seqio.Vocabulary)
