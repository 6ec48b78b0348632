"""A vocabulary with added tokens: what a published one loses, kept.

T5's vocabulary turns newlines and tabs into spaces and ``{ } < ~ \\ ^`` and the back-tick into
unknowns, so layouts, code and SQL are lost on the way into a model. Parity with T5, T0, Flan-T5 and
Tk-Instruct means keeping that loss; to be rid of it, wrap the vocabulary:

    extend(vocab.load("spiece.model"))                       # T5_LOSSES
    extend(vocab.load("spiece.model"), (" <", " <="))        # UnifiedSKG's two tokens

    {"kind": "extended", "base": {"kind": "sentencepiece", "file": "spiece.model"},
     "added": ["\\n", "{", "}"]}                               # the same as JSON, for `vocab.load`

The ids of the added tokens follow all others (pieces, sentinels, modes), in their order; none of
those moves. A model needs `rows` embedding rows, and
`ul2tune.checkpoints.extend.from_smaller_vocabulary` starts it from a checkpoint that has fewer.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from ul2tune.data.vocab_base import Vocabulary
from ul2tune.data.vocab_info import VocabInfo

# What T5's vocabulary cannot represent, and the two tokens that UnifiedSKG adds to it.
T5_LOSSES = ("\n", "\t", "{", "}", "<", "\\", "~", "^", "`", " <", " <=")
# A character no model knows (private use).
_BARRIER = "\ue000"


@dataclass(frozen=True, kw_only=True)
class ExtendedVocabulary(Vocabulary):
    """`base` with tokens of its own for the texts `added`; `extra_ids` and `modes` are the base's.

    Text is split at added tokens first, at the longest that matches; what is between them is
    encoded by `base`. Text without any has the base's ids. Added tokens are spelled exactly, and so
    are spaces beside them, indentation for example. Several spaces between two words remain what
    `base` makes of them: one in T5's.

    Attributes:
      base: any other vocabulary.
      added: texts, all different and not empty. They are no special tokens: in a conversation a
        message may hold them too.
    """

    base: Vocabulary
    added: tuple[str, ...]

    def __post_init__(self):
        if isinstance(self.base, ExtendedVocabulary):
            raise ValueError("The base of an extended vocabulary is extended itself: extend once.")
        if not self.added or not all(isinstance(text, str) and text for text in self.added):
            raise ValueError(f"Added tokens must be texts that are not empty, got {self.added!r}.")
        if len(set(self.added)) != len(self.added):
            raise ValueError(f"Added tokens must be different, got {self.added!r}.")
        object.__setattr__(self, "extra_ids", self.base.extra_ids)
        object.__setattr__(self, "modes", self.base.modes)

    @property
    def kind(self) -> str:
        return "extended"

    @property
    def base_size(self) -> int:
        return self.base.base_size

    @property
    def eos_id(self) -> int:
        return self.base.eos_id

    @property
    def pad_id(self) -> int:
        return self.base.pad_id

    @property
    def bos_id(self) -> int | None:
        return self.base.bos_id

    @property
    def unk_id(self) -> int | None:
        return self.base.unk_id

    @property
    def info(self) -> VocabInfo:
        return self.base.info

    @property
    def size(self) -> int:
        return self.base.size + len(self.added)

    def _identity(self) -> dict[str, Any]:
        return {"base": self.base.fingerprint, "added": list(self.added)}

    def to_json(self) -> dict[str, Any]:
        return super().to_json() | {"base": self.base.to_json(), "added": list(self.added)}

    def _encode(self, text: str) -> list[int]:
        return self._split(text, self.base._encode)

    def cut(self, text: str, tokens: int) -> str | None:
        found = self._pattern.search(text)
        return super().cut(text, tokens) if found else self.base.cut(text, tokens)

    def _encode_specials(self, text: str) -> list[int]:
        return self._split(text, self.base._encode_specials)

    def _own_specials(self) -> Sequence[str]:
        return self.base._own_specials()

    @property
    def added_texts(self) -> tuple[str, ...]:
        return (*self.base.added_texts, *self.added)

    def _split(self, text: str, encode: Callable[[str], list[int]]) -> list[int]:
        """Encodes by `encode` what is between added tokens."""
        parts = self._pattern.split(text)
        if len(parts) == 1:
            return encode(text)
        ids: list[int] = []
        for index, part in enumerate(parts):
            if index % 2:
                ids.append(self._added_ids[part])
            elif part:
                ids += self._alone(part, encode)
        return ids

    def _alone(self, part: str, encode: Callable[[str], list[int]]) -> list[int]:
        """Encodes what stands beside an added token like a text of its own, its spaces kept.

        T5's vocabulary puts a space before a text and drops those around it: the first "▁" of a
        part means no space, every further one a space. So words keep the pieces they have at the
        start of a text, as they do in Hugging Face's tokenizers with added tokens.
        """
        if not self._drops_spaces:
            return encode(part)
        words = part.strip(" ")
        before = len(part) - len(part.lstrip(" "))
        after = len(part) - len(part.rstrip(" ")) if words else 1
        return [*[self._space_id] * before, *encode(words), *[self._space_id] * after]

    @cached_property
    def _drops_spaces(self) -> bool:
        return self.base._encode("a") == self.base._encode(" a")

    @cached_property
    def _space_id(self) -> int:
        """The piece "▁", met where a space is followed by what belongs to no word."""
        (space,) = self.base._encode(f"a {_BARRIER}")[len(self.base._encode("a")) : -1]
        return space

    def _restarts(self, token: int) -> bool:
        return token >= self.base.size

    def _decode(self, ids: Sequence[int], *, at_start: bool) -> str:
        if not at_start or not self._drops_spaces:
            return self.base._decode(ids, at_start=at_start)
        rest = list(itertools.dropwhile(lambda token: token == self._space_id, ids))
        spaces = len(ids) - len(rest)
        if not rest or not self._piece(rest[0]).startswith("▁"):
            spaces -= 1  # one of them says that there is none
        return " " * spaces + self.base._decode(rest, at_start=True)

    def _piece(self, token: int) -> str:
        return self.base._piece(token)

    def _special(self, token: int) -> str:
        offset = token - self.base.size
        return self.added[offset] if 0 <= offset < len(self.added) else self.base._special(token)

    def _is_text(self, token: int) -> bool:
        return self.base._is_text(token)

    def _reserved_ids(self) -> Sequence[int]:
        return [*self.base._reserved_ids(), *range(self.base.size, self.size)]

    @cached_property
    def _added_ids(self) -> dict[str, int]:
        return {text: self.base.size + index for index, text in enumerate(self.added)}

    @cached_property
    def _pattern(self) -> re.Pattern[str]:
        longest_first = sorted(self.added, key=len, reverse=True)
        return re.compile(f"({'|'.join(map(re.escape, longest_first))})")


def extend(base: Vocabulary, added: Sequence[str] = T5_LOSSES) -> ExtendedVocabulary:
    """Adds tokens to a vocabulary; see :class:`ExtendedVocabulary`.

    Raises:
      ValueError: if a token is empty or there twice, or `base` is extended already.
    """
    return ExtendedVocabulary(base=base, added=tuple(added))
