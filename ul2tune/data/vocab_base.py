"""What every vocabulary has beside its tokenizer: sentinels, modes, reserved ids, a fingerprint.

`ul2tune.data.vocab` describes the layout of the ids and has the vocabularies themselves.
"""

from __future__ import annotations

import abc
import hashlib
import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from ul2tune.data.vocab_info import VocabInfo

PAD_ID, EOS_ID = 0, 1
# UL2's three modes: regular denoising, sequential (prefix-LM) and extreme denoising.
MODES = ("R", "S", "X")
T5_EXTRA_IDS = 100
# What TPUs and GPUs multiply well, and what T5's 32,128 rows are a multiple of.
ROWS_MULTIPLE = 128
# So many texts of at most so many characters are kept with their ids.
_KEPT_TEXTS = 64
_KEPT_CHARACTERS = 2**14


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
    def eos_id(self) -> int:
        """The id that ends a sequence."""
        return EOS_ID

    @property
    def pad_id(self) -> int:
        """The id that follows the end of what is generated; see `VocabInfo`."""
        return PAD_ID

    @property
    def bos_id(self) -> int | None:
        """The id that the model starts a document with (`start_id`); it is not put into data. None
        in T5."""
        return None

    @property
    def unk_id(self) -> int | None:
        """The id of what the tokenizer does not know; None if it has none."""
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
    def rows(self) -> int:
        """`size` rounded up to a multiple of 128: the embedding rows of a model that is new."""
        return -(-self.size // ROWS_MULTIPLE) * ROWS_MULTIPLE

    @property
    def info(self) -> VocabInfo:
        """The facts the denoisers need."""
        top = self.base_size + self.extra_ids
        return VocabInfo(
            vocab_size=top,
            eos_id=self.eos_id,
            pad_id=self.pad_id,
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
        """The description that `ul2tune.data.vocab.load` understands."""
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
            return self._encode_once(text)
        ids: list[int] = []
        for part in self._special_pattern.split(text):
            token = self._special_ids.get(part)
            ids.extend(self._encode_specials(part) if token is None else [token])
        return ids

    def _encode_once(self, text: str) -> list[int]:
        """Keeps ids for a while: a renderer with a token budget asks for those of its prompt, of
        what the prompt begins with, and of the exemplars it shows again; `prepare` then asks for
        those of the prompt."""
        if len(text) > _KEPT_CHARACTERS:
            return self._encode(text)
        kept = self._kept
        ids = kept.get(text)
        if ids is None:
            ids = self._encode(text)
            if len(kept) >= _KEPT_TEXTS:
                kept.clear()  # in one go, whatever other threads do meanwhile
            kept[text] = ids
        return list(ids)

    @cached_property
    def _kept(self) -> dict[str, list[int]]:
        return {}

    @cached_property
    def special_texts(self) -> tuple[str, ...]:
        """All texts that mean an id where `encode` is asked for `specials`."""
        reserved = filter(self._special_pattern.fullmatch, self._special_ids)
        return (*reserved, *self._own_specials())

    @property
    def added_texts(self) -> tuple[str, ...]:
        """Texts that are an id of their own wherever they stand: added tokens, if not special."""
        return ()

    def decode(self, ids: Iterable[int]) -> str:
        """Ids to text, up to the first end of sequence.

        Padding is dropped; sentinels and modes are spelled out (``<extra_id_0>``, ``[S]``).
        """
        text, run, at_start = "", [], True
        for token in map(int, ids):
            if token == self.eos_id:
                break
            if token == self.pad_id:
                continue
            if self._is_text(token):
                run.append(token)
            else:
                text += self._decode(run, at_start=at_start) + self._special(token)
                run, at_start = [], self._restarts(token)
        return text + self._decode(run, at_start=at_start)

    def cut(self, text: str, tokens: int) -> str | None:
        """The text of the first `tokens` ids, or None if it has fewer; what the tokenizer does not
        know stays as it is where the tokenizer can say so (SentencePiece)."""
        ids = self.encode(text)
        return None if len(ids) < tokens else self.decode(ids[:tokens])

    def decode_pieces(self, ids: Iterable[int]) -> list[str]:
        """One readable string per id (nothing dropped), for inspection."""
        return [self._piece(i) if self._is_text(i) else self._special(i) for i in map(int, ids)]

    def _encode_specials(self, text: str) -> list[int]:
        """Like `_encode`, but the tokenizer's own special tokens in the text mean their ids."""
        return self._encode(text)

    def _own_specials(self) -> Sequence[str]:
        """Texts of the tokenizer's own special tokens."""
        return ()

    def _is_text(self, token: int) -> bool:
        """Whether an id is a piece of the tokenizer, and not a sentinel, a mode or added."""
        return 0 <= token < self.base_size

    def _reserved_ids(self) -> Sequence[int]:
        """Sentinels, modes and added tokens."""
        return range(self.base_size, self.size)

    def _restarts(self, token: int) -> bool:
        """Whether what follows this special id was encoded like the start of a text."""
        return False

    def _special(self, token: int) -> str:
        offset = token - self.base_size
        if 0 <= offset < self.extra_ids:
            return f"<extra_id_{self.extra_ids - 1 - offset}>"
        if 0 <= offset - self.extra_ids < len(self.modes):
            return f"[{self.modes[offset - self.extra_ids]}]"
        return f"<row_{token}>"

    @cached_property
    def _special_ids(self) -> dict[str, int]:
        return {self._special(token): token for token in self._reserved_ids()}

    @cached_property
    def _special_pattern(self) -> re.Pattern[str]:
        modes = "|".join(re.escape(f"[{mode}]") for mode in self.modes)
        return re.compile(rf"(<extra_id_\d+>{'|' + modes if modes else ''})")


@dataclass(frozen=True, kw_only=True)
class FileVocabulary(Vocabulary):
    """A vocabulary whose tokenizer is a file, which is opened when it is first needed.

    Attributes:
      file: its path.
      known_sha256: from a manifest; lets the file be checked when it is opened.
    """

    file: str
    known_sha256: str | None = None

    @abc.abstractmethod
    def read_model(self) -> bytes:
        """The bytes of the file."""

    @cached_property
    def file_sha256(self) -> str:
        return self.known_sha256 or hashlib.sha256(self.read_model()).hexdigest()

    def to_json(self) -> dict[str, Any]:
        return super().to_json() | {"file": self.file, "sha256": self.file_sha256}

    def _identity(self) -> dict[str, Any]:
        return {"sha256": self.file_sha256}

    def _checked_model(self) -> bytes:
        data = self.read_model()
        digest = hashlib.sha256(data).hexdigest()
        if self.known_sha256 not in (None, digest):
            raise ValueError(
                f"{self.file} is not the vocabulary this data was prepared with (sha256 "
                f"{digest[:12]}…, expected {str(self.known_sha256)[:12]}…). Restore the file or "
                "prepare the data again."
            )
        return data
