"""Our vocabularies as SeqIO vocabularies, and SeqIO's as ours.

One tokenizer serves preparing, training and evaluating: inside TensorFlow graphs it is called back
in Python, so no second implementation can disagree about an id.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable

import numpy as np
import seqio

from ul2tune.data import vocab
from ul2tune.data.vocab import Vocabulary
from ul2tune.prepare.runtime import tf


class SeqioVocabulary(seqio.Vocabulary):
    """A `ul2tune.data.vocab.Vocabulary` in a SeqIO `Feature`.

    SeqIO's own feature converters take 0 for padding. Where it is a piece of text (Qwen's "!"),
    they give it no loss; ours do.

    It is made when first used, so registering a task trains and reads nothing. `vocab_size` is
    pieces + sentinels, as T5's preprocessors expect; mode ids lie above it.

    Args:
      make: the vocabulary, or a function that returns it.
    """

    def __init__(self, make: Vocabulary | Callable[[], Vocabulary]):
        super().__init__()
        self._make = (lambda: make) if isinstance(make, Vocabulary) else make

    @functools.cached_property
    def vocabulary(self) -> Vocabulary:
        """The wrapped vocabulary."""
        return self._make()

    @property
    def is_read(self) -> bool:
        """Whether the wrapped vocabulary has been made."""
        return "vocabulary" in vars(self)

    def __getstate__(self):
        # Trained or read once, then shipped to workers as what it is.
        return {"_extra_ids": 0, "vocabulary": self.vocabulary}

    @property
    def bos_id(self) -> int | None:
        return self.vocabulary.bos_id

    @property
    def eos_id(self) -> int:
        return self.vocabulary.eos_id

    @property
    def unk_id(self) -> int | None:
        return self.vocabulary.unk_id

    @property
    def extra_ids(self) -> int:
        return self.vocabulary.extra_ids

    @property
    def _base_vocab_size(self) -> int:
        return self.vocabulary.base_size

    def ids(self, text: str | bytes) -> np.ndarray:
        """Token ids of a text, int32 [L], without end of sequence."""
        return np.asarray(self._encode(text), np.int32)

    def _encode(self, s: str | bytes) -> list[int]:
        return self.vocabulary.encode(s.decode("utf-8") if isinstance(s, bytes) else s)

    def decode(self, ids: Iterable[int]) -> str:
        return self.vocabulary.decode(np.asarray(ids).tolist())

    def _decode(self, ids: Iterable[int]) -> str:
        return self.vocabulary.decode(ids)

    def decode_tf(self, ids: tf.Tensor) -> tf.Tensor:
        # SeqIO's makes unknowns of all ids beyond the pieces: of sentinels and added tokens too.
        return self._decode_tf(tf.convert_to_tensor(ids))

    def _encode_tf(self, s: tf.Tensor) -> tf.Tensor:
        def encode(text: bytes | np.ndarray) -> np.ndarray:
            # Bytes inside graphs, an array without axes outside. An array made of the bytes
            # would lose NULs at their end.
            one = text if isinstance(text, bytes) else text.item()
            return self.ids(one)

        ids = tf.numpy_function(encode, [s], tf.int32, stateful=False)
        return tf.ensure_shape(ids, [None])

    def _decode_tf(self, ids: tf.Tensor) -> tf.Tensor:
        def decode(rows: np.ndarray) -> np.ndarray:
            flat = [self.decode(row).encode() for row in rows.reshape(-1, rows.shape[-1])]
            return np.array(flat, object).reshape(rows.shape[:-1])

        text = tf.numpy_function(decode, [ids], tf.string, stateful=False)
        return tf.ensure_shape(text, ids.shape[:-1])

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, SeqioVocabulary):
            return False
        return self.vocabulary.fingerprint == other.vocabulary.fingerprint

    def __hash__(self) -> int:
        return hash(self.vocabulary.fingerprint)

    def __str__(self) -> str:
        return f"SeqioVocabulary({self.vocabulary.to_json()})"


def from_seqio(vocabulary: seqio.Vocabulary) -> Vocabulary:
    """The TensorFlow-free twin of a SeqIO vocabulary, for manifests.

    SeqIO's own classes reserve no mode ids; ours appends them after the sentinels, where no SeqIO
    id is.

    Raises:
      ValueError: for a vocabulary with no twin.
    """
    if isinstance(vocabulary, SeqioVocabulary):
        return vocabulary.vocabulary
    if isinstance(vocabulary, seqio.SentencePieceVocabulary):
        file = str(vocabulary.sentencepiece_model_file)
        if vocabulary._normalizer_spec_overrides is not None:
            raise ValueError(
                f"The vocabulary of {file} overrides the model's normalizer, so that text would "
                "get other ids in training than here. Put the normalizer into the model file."
            )
        if vocabulary.extra_ids and not vocabulary._reverse_extra_ids:
            raise ValueError(
                f"The vocabulary of {file} numbers its sentinels upwards (reverse_extra_ids = "
                "False), where T5's, and ours, count down from the last id. Leave it True."
            )
        # SeqIO's own ids are 0 of a model that ends in sentinels, and cannot be anything else.
        extra_ids = vocabulary.extra_ids or vocab.own_sentinels(file)
        return vocab.SentencePieceVocabulary(file=file, extra_ids=extra_ids)
    if isinstance(vocabulary, seqio.ByteVocabulary):
        return vocab.ByteVocabulary(extra_ids=vocabulary.extra_ids)
    if isinstance(vocabulary, seqio.PassThroughVocabulary):
        eos_id = vocab.EOS_ID if vocabulary.eos_id is None else vocabulary.eos_id
        return vocab.PassThroughVocabulary(num_ids=vocabulary.vocab_size, eos=eos_id)
    raise ValueError(
        f"Features with {type(vocabulary).__name__} cannot be prepared: training reads text and "
        "sizes without TensorFlow. Use SentencePiece, bytes, pass-through or "
        "ul2tune.prepare.seqio_vocab.SeqioVocabulary."
    )
