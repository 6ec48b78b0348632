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

import abc
import hashlib
import itertools
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from ul2tune.data.vocab_info import VocabInfo

PAD_ID, EOS_ID = 0, 1
# UL2's three modes: regular denoising, sequential (prefix-LM) and extreme denoising.
MODES = ("R", "S", "X")
T5_EXTRA_IDS = 100
# ByT5 in Hugging Face: 3 + 256 + 125 = 384 rows.
BYTE_EXTRA_IDS = 125
_SENTINEL = re.compile(r"<extra_id_\d+>")


@dataclass(frozen=True, kw_only=True)
class Vocabulary(abc.ABC):
    """Base of all vocabularies: what surrounds the tokenizer's own pieces.

    Attributes:
      extra_ids: number of sentinels.
      modes: names of the mode tokens, one reserved id each.
    """

    extra_ids: int = T5_EXTRA_IDS
    modes: tuple[str, ...] = MODES

    def __post_init__(self):
        if self.extra_ids < 0:
            raise ValueError(f"extra_ids must not be negative, got {self.extra_ids}.")
        if len(set(self.modes)) != len(self.modes):
            raise ValueError(f"Mode names must be distinct, got {self.modes}.")

    @property
    @abc.abstractmethod
    def kind(self) -> str:
        """The `kind` of the JSON description."""

    @property
    @abc.abstractmethod
    def base_size(self) -> int:
        """Number of the tokenizer's own pieces, with padding, end of sequence and unknown."""

    @property
    def unk_id(self) -> int:
        """The id of what the tokenizer does not know."""
        return 2

    @abc.abstractmethod
    def _identity(self) -> dict[str, Any]:
        """What else, beside sizes and modes, decides how text becomes ids."""

    @abc.abstractmethod
    def _encode(self, text: str) -> list[int]: ...

    @abc.abstractmethod
    def _decode(self, ids: Sequence[int], *, at_start: bool) -> str: ...

    @abc.abstractmethod
    def _piece(self, token: int) -> str: ...

    @property
    def size(self) -> int:
        """All ids in use (pieces, sentinels, modes): the least number of embedding rows."""
        return self.base_size + self.extra_ids + len(self.modes)

    @property
    def info(self) -> VocabInfo:
        """The facts the denoisers need."""
        top = self.base_size + self.extra_ids
        return VocabInfo(
            vocab_size=top,
            eos_id=EOS_ID,
            pad_id=PAD_ID,
            num_sentinels=self.extra_ids,
            mode_ids={mode: (top + i,) for i, mode in enumerate(self.modes)},
        )

    @property
    def fingerprint(self) -> str:
        """16 hexadecimal digits that change whenever some text could get other ids."""
        identity = [self.kind, self.base_size, self.extra_ids, list(self.modes), self._identity()]
        text = json.dumps(identity, sort_keys=True, ensure_ascii=False)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def to_json(self) -> dict[str, Any]:
        """The description :func:`load` understands."""
        return {
            "kind": self.kind,
            "base_size": self.base_size,
            "extra_ids": self.extra_ids,
            "modes": list(self.modes),
            "fingerprint": self.fingerprint,
        }

    def encode(self, text: str, *, specials: bool = False) -> list[int]:
        """Text to ids, without end of sequence.

        Args:
          text: any string.
          specials: whether ``<extra_id_3>`` and ``[S]`` in the text mean the reserved ids. Off by
            default: in a corpus they are just characters.
        """
        if not specials:
            return self._encode(text)
        ids: list[int] = []
        for part in self._special_pattern.split(text):
            token = self._special_ids.get(part)
            ids.extend(self._encode(part) if token is None else [token])
        return ids

    def decode(self, ids: Iterable[int]) -> str:
        """Ids to text, up to the first end of sequence.

        Padding is dropped; sentinels and modes are spelled out (``<extra_id_0>``, ``[S]``).
        """
        text, run = "", []
        for token in map(int, ids):
            if token == EOS_ID:
                break
            if PAD_ID < token < self.base_size:
                run.append(token)
            elif token != PAD_ID:
                text += self._decode(run, at_start=not text) + self._special(token)
                run = []
        return text + self._decode(run, at_start=not text)

    def decode_pieces(self, ids: Iterable[int]) -> list[str]:
        """One readable string per id (nothing dropped), for inspection."""
        return [self._piece(i) if i < self.base_size else self._special(i) for i in map(int, ids)]

    def _special(self, token: int) -> str:
        offset = token - self.base_size
        if 0 <= offset < self.extra_ids:
            return f"<extra_id_{self.extra_ids - 1 - offset}>"
        if 0 <= offset - self.extra_ids < len(self.modes):
            return f"[{self.modes[offset - self.extra_ids]}]"
        return f"<row_{token}>"

    @cached_property
    def _special_ids(self) -> dict[str, int]:
        return {self._special(token): token for token in range(self.base_size, self.size)}

    @cached_property
    def _special_pattern(self) -> re.Pattern[str]:
        modes = "|".join(re.escape(f"[{mode}]") for mode in self.modes)
        return re.compile(rf"(<extra_id_\d+>{'|' + modes if modes else ''})")


@dataclass(frozen=True, kw_only=True)
class SentencePieceVocabulary(Vocabulary):
    """A SentencePiece model file. It is opened when text is first encoded or decoded, not before.

    Attributes:
      file: path of the model; padding and end of sequence must be 0 and 1, as in every T5 model.
        A file that ends in sentinels of its own keeps them; `extra_ids` is then their number.
      known_base_size, known_sha256: from a manifest; they make the sizes known without the file,
        and let the file be checked when it is opened.
    """

    file: str
    known_base_size: int | None = None
    known_sha256: str | None = None

    @property
    def kind(self) -> str:
        return "sentencepiece"

    @property
    def base_size(self) -> int:
        if self.known_base_size is not None:
            return self.known_base_size
        return self._processor.GetPieceSize() - _num_own_sentinels(self._processor)

    @property
    def unk_id(self) -> int:
        return self._processor.unk_id()

    @cached_property
    def file_sha256(self) -> str:
        return self.known_sha256 or hashlib.sha256(self.read_model()).hexdigest()

    def _identity(self) -> dict[str, Any]:
        return {"sha256": self.file_sha256}

    def read_model(self) -> bytes:
        """The file's bytes."""
        if "://" in self.file:
            from etils import epath  # remote paths only

            return epath.Path(self.file).read_bytes()
        try:
            return Path(self.file).read_bytes()
        except FileNotFoundError as error:
            raise ValueError(
                f"SentencePiece model {self.file} does not exist (working directory {Path.cwd()})."
            ) from error

    def to_json(self) -> dict[str, Any]:
        return super().to_json() | {"file": self.file, "sha256": self.file_sha256}

    @cached_property
    def _processor(self):
        import sentencepiece  # here, because a feed that only needs sizes should not load it

        data = self.read_model()
        digest = hashlib.sha256(data).hexdigest()
        if self.known_sha256 not in (None, digest):
            raise ValueError(
                f"{self.file} is not the vocabulary this data was prepared with (sha256 "
                f"{digest[:12]}…, expected {str(self.known_sha256)[:12]}…). Restore the file or "
                "prepare the data again."
            )
        processor = sentencepiece.SentencePieceProcessor()
        try:
            processor.LoadFromSerializedProto(data)
        except RuntimeError as error:
            raise ValueError(f"{self.file} is not a SentencePiece model ({error}).") from error
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
    """Ids that come from elsewhere: sizes are known, text is not."""

    num_ids: int
    extra_ids: int = 0
    modes: tuple[str, ...] = ()

    @property
    def kind(self) -> str:
        return "pass_through"

    @property
    def base_size(self) -> int:
        return self.num_ids

    def _identity(self) -> dict[str, Any]:
        return {}

    def _encode(self, text: str) -> list[int]:
        raise ValueError(f"A pass-through vocabulary has no tokenizer; it cannot encode {text!r}.")

    def _decode(self, ids: Sequence[int], *, at_start: bool) -> str:
        return " ".join(map(str, ids))

    def _piece(self, token: int) -> str:
        return str(token)


def load(description: Mapping[str, Any] | str | Path, root: str | Path | None = None) -> Vocabulary:
    """Makes a vocabulary from its description.

    Args:
      description: ``"bytes"``; the path of a SentencePiece model; or what `Vocabulary.to_json`
        returns and manifests hold, of which ``kind`` and, for SentencePiece, ``file`` are required.
      root: folder that a relative ``file`` is relative to; prepared data keeps a copy of the model,
        so pass its ``data_dir``.

    Raises:
      ValueError: on an unknown kind or key, or if the file is not the one described.
    """
    if isinstance(description, str | Path):
        text = str(description)
        description = (
            {"kind": "bytes"} if text == "bytes" else {"kind": "sentencepiece", "file": text}
        )
    values = dict(description)
    kind, fingerprint = values.pop("kind", None), values.pop("fingerprint", None)
    if "modes" in values:
        values["modes"] = tuple(values["modes"])
    base_size, sha256 = values.pop("base_size", None), values.pop("sha256", None)
    if kind == "sentencepiece":
        path = Path(values["file"]) if "://" not in values["file"] else None
        if root is not None and path is not None and not path.is_absolute():
            values["file"] = str(Path(root) / path)
        values |= {"known_base_size": base_size, "known_sha256": sha256}
    elif kind == "pass_through":
        values["num_ids"] = base_size
    kinds = {
        "sentencepiece": SentencePieceVocabulary,
        "bytes": ByteVocabulary,
        "pass_through": PassThroughVocabulary,
    }
    if kind not in kinds:
        raise ValueError(
            f"Unknown vocabulary kind {kind!r} in {description}; use one of {sorted(kinds)}."
        )
    try:
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


def _num_own_sentinels(processor: Any) -> int:
    """How many pieces at the end of a SentencePiece model are ``<extra_id_…>``."""
    size = processor.GetPieceSize()
    pieces = (processor.IdToPiece(i).lstrip("▁") for i in range(size - 1, -1, -1))
    return sum(1 for _ in itertools.takewhile(_SENTINEL.fullmatch, pieces))
