"""Vocabularies without TensorFlow: text to token ids and back, sentinels, modes, fingerprints.

The rows of the embedding, by id:

    0 … base_size-1           the tokenizer's own pieces; 0 is padding, 1 end of sequence
    base_size … +extra_ids    sentinels, counted down from the top as in T5:
                              ``<extra_id_k>`` = base_size + extra_ids - 1 - k
    then one id per mode      ``[R]``, ``[S]``, ``[X]`` of UL2, in the order of `modes`

Mode ids come last, so that adding them moves no id of a published checkpoint: T5's 32,000 pieces
and 100 sentinels end at 32,099, and its embedding has 32,128 rows, which leaves 28 of them free.

    >>> vocabulary = load("bytes")
    >>> vocabulary.encode("hi")
    [107, 108]
    >>> vocabulary.decode([107, 108, 383, 1])
    'hi<extra_id_0>'
    >>> vocabulary.info.mode_ids["S"], vocabulary.size
    ((385,), 387)
"""

from __future__ import annotations

import functools
import itertools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from ul2tune.data import tokenizer_files, vocab_tokenizer_json
from ul2tune.data.vocab_base import EOS_ID, PAD_ID, FileVocabulary, Vocabulary
from ul2tune.data.vocab_extended import ExtendedVocabulary

# ByT5 in Hugging Face: 3 + 256 + 125 = 384 rows.
BYTE_EXTRA_IDS = 125
_SENTINEL = re.compile(r"<extra_id_\d+>")


@dataclass(frozen=True, kw_only=True)
class SentencePieceVocabulary(FileVocabulary):
    """A SentencePiece model.

    Its padding and end of sequence must be 0 and 1, as in every T5 model. A file that ends in
    sentinels of its own keeps them; `extra_ids` is then their number.

    Attributes:
      known_base_size: from a manifest; makes the sizes known without the file.
    """

    known_base_size: int | None = None

    @property
    def kind(self) -> str:
        return "sentencepiece"

    @cached_property  # asked for every id that is decoded
    def base_size(self) -> int:
        if self.known_base_size is not None:
            return self.known_base_size
        return self._processor.GetPieceSize() - _num_own_sentinels(self._processor)

    @property
    def unk_id(self) -> int:
        return self._processor.unk_id()

    def read_model(self) -> bytes:
        if "://" in self.file:
            from etils import epath  # remote paths only

            return epath.Path(self.file).read_bytes()
        try:
            return Path(self.file).read_bytes()
        except FileNotFoundError as error:
            raise ValueError(
                f"SentencePiece model {self.file} does not exist (working directory {Path.cwd()})."
            ) from error

    @cached_property
    def _opened(self):
        try:
            return _processor(self._checked_model())
        except RuntimeError as error:
            raise ValueError(f"{self.file} is not a SentencePiece model ({error}).") from error

    @cached_property
    def _processor(self):
        processor = self._opened
        found = (processor.pad_id(), processor.eos_id())
        if found != (PAD_ID, EOS_ID):
            raise ValueError(
                f"{self.file} has pad, eos = {found}; T5-style models need (0, 1). Train it with "
                "--pad_id=0 --eos_id=1 --unk_id=2 --bos_id=-1."
            )
        own = _num_own_sentinels(processor)
        if own not in (0, self.extra_ids):
            raise ValueError(
                f"{self.file} holds {own} sentinels of its own, so extra_ids must be {own}, "
                f"not {self.extra_ids}."
            )
        return processor

    def _encode(self, text: str) -> list[int]:
        return self._processor.EncodeAsIds(text)

    def cut(self, text: str, tokens: int) -> str | None:
        # Pieces spell what ids call unknown.
        pieces = self._processor.EncodeAsPieces(text)
        return None if len(pieces) < tokens else self._processor.DecodePieces(pieces[:tokens])

    def _decode(self, ids: Sequence[int], *, at_start: bool) -> str:
        if not ids:
            return ""
        text = self._processor.DecodeIds(list(ids))
        # Models with a dummy prefix swallow the first space of what they decode; inside a text it
        # is real.
        swallowed = not at_start and self._piece(ids[0]).startswith("▁") and text[:1] != " "
        return " " + text if swallowed else text

    def _piece(self, token: int) -> str:
        return self._processor.IdToPiece(token)


@dataclass(frozen=True, kw_only=True)
class ByteVocabulary(Vocabulary):
    """UTF-8 bytes, as in ByT5: id = 3 + byte.

    DIVERGES: bytes that are no UTF-8 decode to U+FFFD; SeqIO drops them, which hides them from
    evaluation.
    """

    extra_ids: int = BYTE_EXTRA_IDS

    @property
    def kind(self) -> str:
        return "bytes"

    @property
    def base_size(self) -> int:
        return 3 + 256

    def _identity(self) -> dict[str, Any]:
        return {}

    def _encode(self, text: str) -> list[int]:
        return [3 + byte for byte in text.encode("utf-8")]

    def _decode(self, ids: Sequence[int], *, at_start: bool) -> str:
        return bytes(token - 3 for token in ids if token >= 3).decode("utf-8", errors="replace")

    def _piece(self, token: int) -> str:
        if token < 3:
            return ("<pad>", "</s>", "<unk>")[token]
        return chr(token - 3) if 32 <= token - 3 < 127 else f"<0x{token - 3:02X}>"


@dataclass(frozen=True, kw_only=True)
class PassThroughVocabulary(Vocabulary):
    """Ids that come from elsewhere: sizes and the end of sequence are known, text is not."""

    num_ids: int
    extra_ids: int = 0
    modes: tuple[str, ...] = ()
    eos: int = EOS_ID

    @property
    def kind(self) -> str:
        return "pass_through"

    @property
    def base_size(self) -> int:
        return self.num_ids

    @property
    def eos_id(self) -> int:
        return self.eos

    def _identity(self) -> dict[str, Any]:
        return {} if self.eos == EOS_ID else {"eos": self.eos}

    def to_json(self) -> dict[str, Any]:
        return super().to_json() | self._identity()

    def _encode(self, text: str) -> list[int]:
        raise ValueError(f"A pass-through vocabulary has no tokenizer; it cannot encode {text!r}.")

    def _decode(self, ids: Sequence[int], *, at_start: bool) -> str:
        return " ".join(map(str, ids))

    def _piece(self, token: int) -> str:
        return str(token)


def load(description: Mapping[str, Any] | str | Path, root: str | Path | None = None) -> Vocabulary:
    """Makes a vocabulary from its description.

    Args:
      description: ``"bytes"``; the path of a SentencePiece model or of a ``tokenizer.json``; that
        of a Transformers folder or an imported MODEL_DIR; what `Vocabulary.to_json` returns and
        manifests hold, of which ``kind`` and, where there is one, ``file`` are required; or the
        path of a file ``….json`` that holds such a description.
      root: folder that a relative ``file`` is relative to; prepared data keeps a copy of the model,
        so pass its ``data_dir``. Files named in a description's file are relative to that one.

    Raises:
      ValueError: on an unknown kind or key, or if the file is not the one described.
    """
    if isinstance(description, str | Path):
        description, root = _describe(str(description))
    values = dict(description)
    kind, fingerprint = values.pop("kind", None), values.pop("fingerprint", None)
    if root is not None and "file" in values and "://" not in values["file"]:
        values["file"] = str(Path(root) / Path(values["file"]).expanduser())
    known = {key: values.pop(key, None) for key in ("base_size", "sha256")}
    if kind == "sentencepiece":
        values |= {f"known_{key}": value for key, value in known.items()}
    elif kind == vocab_tokenizer_json.KIND:
        values |= known
    elif kind == "pass_through":
        values["num_ids"] = known["base_size"]
    kinds = {
        "sentencepiece": SentencePieceVocabulary,
        "bytes": ByteVocabulary,
        "pass_through": PassThroughVocabulary,
        "extended": ExtendedVocabulary,
        vocab_tokenizer_json.KIND: vocab_tokenizer_json.from_description,
    }
    if kind not in kinds:
        raise ValueError(
            f"Unknown vocabulary kind {kind!r} in {description}; use one of {sorted(kinds)}."
        )
    try:
        if "modes" in values:
            values["modes"] = tuple(values["modes"])
        if kind == "extended":
            values = _extended(values, load(values.get("base", {}), root))
        vocabulary = kinds[kind](**values)
    except TypeError as error:
        raise ValueError(
            f"Vocabulary description {dict(description)} is not understood: {error}."
        ) from error
    if fingerprint is not None and fingerprint != vocabulary.fingerprint:
        raise ValueError(
            f"Vocabulary {dict(description)} has fingerprint {vocabulary.fingerprint}, expected "
            f"{fingerprint}."
        )
    return vocabulary


def _extended(values: Mapping[str, Any], base: Vocabulary) -> dict[str, Any]:
    """Arguments of an extended vocabulary, whose sentinels and modes are those of its base."""
    for name in ("extra_ids", "modes"):
        given, own = values.get(name), getattr(base, name)
        if given is not None and given != own:
            raise ValueError(
                f"An extended vocabulary has the {name} of its base, {own!r}, not {given!r}: set "
                f'them in "base".'
            )
    rest = {name: value for name, value in values.items() if name not in ("extra_ids", "modes")}
    return rest | {"base": base, "added": tuple(values.get("added", ()))}


def _describe(text: str) -> tuple[dict[str, Any], Path | None]:
    """The description that a text stands for, and what its files are relative to."""
    if text == "bytes":
        return {"kind": "bytes"}, None
    path = Path(text).expanduser()
    if "://" not in text and path.is_dir():
        return tokenizer_files.describe(path), path
    if path.suffix != ".json":
        return {"kind": "sentencepiece", "file": text}, None
    if path.name == tokenizer_files.TOKENIZER or (
        path.name == tokenizer_files.VOCAB and not _is_description(path)
    ):
        return {"kind": vocab_tokenizer_json.KIND, "file": path.name}, path.parent
    return tokenizer_files.read_object(path), path.parent


def _is_description(path: Path) -> bool:
    """Whether a file of GPT-2's name is one of ours: there, a "kind" could only be an id."""
    if not path.is_file() or path.with_name(tokenizer_files.MERGES).is_file():
        return False
    return isinstance(tokenizer_files.read_object(path).get("kind"), str)


@functools.lru_cache(maxsize=16)
def _processor(model: bytes) -> Any:
    """Reads a model; once, for all vocabularies of the same. T5's takes 0.1 s and 5 MB, and every
    task of a mixture may have its own vocabulary of it."""
    import sentencepiece  # here, because a feed that only needs sizes should not load it

    processor = sentencepiece.SentencePieceProcessor()
    processor.LoadFromSerializedProto(model)
    return processor


def own_sentinels(file: str) -> int:
    """How many sentinels a SentencePiece model itself ends in, as mT5's does; mostly 0."""
    return _num_own_sentinels(SentencePieceVocabulary(file=file)._opened)


def _num_own_sentinels(processor: Any) -> int:
    """How many pieces at the end of a SentencePiece model are ``<extra_id_…>``."""
    size = processor.GetPieceSize()
    pieces = (processor.IdToPiece(i).lstrip("▁") for i in range(size - 1, -1, -1))
    return sum(1 for _ in itertools.takewhile(_SENTINEL.fullmatch, pieces))
