"""What renderers need of a vocabulary: to count the tokens of a prompt, and to cut it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol


class Tokenizer(Protocol):
    """Ids of a text, without end of sequence, and back: any `ul2tune.data.vocab.Vocabulary`."""

    def encode(self, text: str) -> list[int]: ...
    def decode(self, ids: Sequence[int]) -> str: ...


def cut_text(text: str, tokenizer: Tokenizer, tokens: int) -> str | None:
    """The text of the first `tokens` tokens; None if there are fewer of them.

    Vocabularies join pieces instead of decoding ids (`Vocabulary.cut`): a character they lack stays
    as it is. Decoded, it would be the text " ⁇ ", which is known.
    """
    if (cut := getattr(tokenizer, "cut", None)) is not None:
        return cut(text, tokens)
    ids = tokenizer.encode(text)
    return None if len(ids) < tokens else tokenizer.decode(ids[:tokens])
