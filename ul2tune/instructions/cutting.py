"""The first tokens of a text, as text."""

from __future__ import annotations

from ul2tune.instructions.tk_instruct import Tokenizer


def cut_text(text: str, tokenizer: Tokenizer, tokens: int) -> str | None:
    """The text of the first `tokens` tokens; None if there are fewer of them.

    Vocabularies join pieces instead of decoding ids (`Vocabulary.cut`): a character they lack stays
    as it is. Decoded, it would be the text " ⁇ ", which is known.
    """
    if (cut := getattr(tokenizer, "cut", None)) is not None:
        return cut(text, tokens)
    ids = tokenizer.encode(text)
    return None if len(ids) < tokens else tokenizer.decode(ids[:tokens])
