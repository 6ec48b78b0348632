"""Trains a SentencePiece vocabulary from a corpus once, cached by corpus and settings.

The settings keep every character: no normalisation (``identity``), white space as it is, newline a
piece of its own, and bytes for what the corpus did not teach. T5's own vocabulary turns
``"a\\nb"`` into ``"a b"`` and ``{ } < ~ \\ ^`` into unknowns, which eats the layout of
instructions and code; here ``decode(encode(text)) == text`` (the one exception is U+2581,
SentencePiece's own sign for a space).
"""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import sentencepiece

from ul2tune import atomic
from ul2tune.data import cache
from ul2tune.data.documents import Corpus, Rejections
from ul2tune.data.vocab import SentencePieceVocabulary
from ul2tune.data.vocab_base import MODES
from ul2tune.status_line import say

# SentencePiece skips longer sentences; ours are lines, cut where they are longer.
_MAX_LINE_CHARACTERS = 1000
_SPACE = "\u2581"  # as SentencePiece writes it


@dataclass(frozen=True, kw_only=True)
class VocabularyConfig:
    """How to train a vocabulary.

    The default sizes sum to 4,096 rows: 3,837 pieces, 256 sentinels, 3 modes. 256 sentinels are
    what UL2's densest denoiser (mean span 3, rate .5) needs at 1,024 inputs.

    Attributes:
      pieces: the tokenizer's own pieces, 3 control, 256 byte and 1 newline piece among them.
      extra_ids: sentinels.
      modes: mode tokens.
      character_coverage: share of the corpus's characters that become pieces; rarer ones are
        spelled in bytes.
      max_bytes: how much of a big corpus is read: its first documents, in UTF-8.
    """

    pieces: int = 3837
    extra_ids: int = 256
    modes: tuple[str, ...] = MODES
    character_coverage: float = 0.9999
    max_bytes: int = 64 * 2**20


def trained_vocabulary(
    corpus: Corpus, config: VocabularyConfig | None = None, folder: str | Path | None = None
) -> SentencePieceVocabulary:
    """The vocabulary of a corpus: from the cache, or trained now (2 s per megabyte) and put there.

    Args:
      corpus: what to learn the pieces from.
      config: sizes; the default fits small models.
      folder: the cache; default :func:`cache.folder`.

    Raises:
      ValueError: if the corpus is empty, or the cache cannot be written to.
    """
    config = config or VocabularyConfig()
    path = Path(folder or cache.folder()) / "vocabularies" / f"{_key(corpus, config)}.model"
    if not path.is_file():
        started = time.monotonic()
        say(f"Training a vocabulary of {config.pieces} pieces …")
        with cache.writing(path):  # before the work
            path.parent.mkdir(parents=True, exist_ok=True)
        data = train(corpus, config)
        # Two processes may do this at once: both write the same bytes.
        with cache.writing(path):
            atomic.write_bytes(path, data)
        seconds = time.monotonic() - started
        say(f"Trained the vocabulary in {seconds:.1f} s: {path}")
    return SentencePieceVocabulary(
        file=str(path), extra_ids=config.extra_ids, modes=tuple(config.modes)
    )


def train(corpus: Corpus, config: VocabularyConfig) -> bytes:
    """Trains a model and returns its file's bytes; equal corpus and settings give equal bytes.

    Raises:
      ValueError: if the corpus is empty.
    """
    data = _train(corpus, config)
    # In a corpus with hardly any spaces, such as Chinese, the space is a rare character, and the
    # bytes it is spelled in are those of U+2581. Only such corpora are trained on again: the
    # vocabularies of all others stay as they are.
    if not _has_piece(data, _SPACE):
        data = _train(corpus, config, required_chars=_SPACE)
    return data


def _train(corpus: Corpus, config: VocabularyConfig, **settings: Any) -> bytes:
    model = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.Train(
            sentence_iterator=_lines(corpus, config.max_bytes),
            model_writer=model,
            model_type="unigram",
            vocab_size=config.pieces,
            hard_vocab_limit=False,  # a small corpus gives what it has
            character_coverage=config.character_coverage,
            pad_id=0,
            eos_id=1,
            unk_id=2,
            bos_id=-1,
            byte_fallback=True,
            user_defined_symbols=["\n"],
            normalization_rule_name="identity",
            add_dummy_prefix=False,
            remove_extra_whitespaces=False,
            allow_whitespace_only_pieces=True,
            split_digits=True,
            shuffle_input_sentence=False,
            # NUMERICS: partial sums are added per thread; a fixed count keeps the bytes the same on
            # every machine.
            num_threads=1,
            minloglevel=2,
            **settings,
        )
    except RuntimeError as error:
        raise ValueError(
            f"SentencePiece could not train a vocabulary from this corpus: {error}."
        ) from error
    return model.getvalue()


def _has_piece(model: bytes, piece: str) -> bool:
    processor = sentencepiece.SentencePieceProcessor(model_proto=model)
    return processor.PieceToId(piece) != processor.unk_id()


def _key(corpus: Corpus, config: VocabularyConfig) -> str:
    """Names the cache file: corpus, settings and trainer version."""
    facts = {"corpus": corpus.fingerprint(), "trainer": sentencepiece.__version__}
    # Sentinels and modes are ids beside the model, not in it.
    settings = dataclasses.asdict(config)
    del settings["extra_ids"], settings["modes"]
    text = json.dumps(facts | settings, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _lines(corpus: Corpus, max_bytes: int) -> Iterator[str]:
    num_bytes = 0
    for document in corpus.read(Rejections()):
        for line in document.text.split("\n"):
            for start in range(0, len(line), _MAX_LINE_CHARACTERS):
                yield line[start : start + _MAX_LINE_CHARACTERS]
        num_bytes += len(document.text.encode())
        if num_bytes >= max_bytes:
            return
