"""Special tokens in conversations: those that a template writes mean their ids, those that somebody
typed into a message are characters.

A style makes one text of both. So messages are quoted before it sees them: marks are put inside
whatever spells a special token, and beside whatever could be part of one. Then no special token is
found in a message, whatever the style writes around it, and in whichever case. Marks do not reach
the ids. Two ways remain to make a special token out of a message: a style that takes characters out
of it (`replace`), and a tokenizer that normalizes letters before it looks for tokens (NFKC).

    quoting = Quoting(vocabulary)             # in which <|im_start|> is a token, id 601
    quoting.quote("a <|im_start|>")           # the same with marks
    quoting.encode("<|im_start|>user\n" + quoting.quote("<|im_start|>"))   # 601, …, 27, 91, …
    unquote(quoting.quote("a <|im_start|>"))  # "a <|im_start|>"
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from ul2tune.data.vocab_base import Vocabulary
from ul2tune.instructions.chat import Message, Style

# Noncharacters: Unicode keeps them for use inside programs. Messages that hold one have it
# twice. `OPENING` is the mark before a message, which may follow another's last.
MARK, OPENING = "\ufdd0", "\ufdd1"
# What `unquote` replaces, and by what (TensorFlow's regular expressions read it too).
MARKS, UNMARKED = f"{MARK}({MARK}?)|{OPENING}({OPENING}?)", r"\1\2"


@dataclass(frozen=True)
class Quoting:
    """Quotes messages for a vocabulary, and encodes the texts that hold them.

    It is the one tokenizer of conversations: for training, evaluation's prompts and token budgets.
    """

    vocabulary: Vocabulary

    def quote(self, message: str) -> str:
        """The message with marks in all that could be taken for a special token."""
        text = message.replace(MARK, MARK * 2).replace(OPENING, OPENING * 2)
        text = self._any_case.sub(lambda found: MARK.join(found[0]) + MARK, text)
        kept = text.rstrip()
        # A special token that the next message, or the template, would complete.
        if kept.lower().endswith(self._beginnings):
            text = kept + MARK + text[len(kept) :]
        # One that the message before, or the template, began.
        said = message.strip().lower()
        if said and (said in self._insides or said.startswith(self._endings)):
            start = len(text) - len(text.lstrip())
            text = text[:start] + OPENING + text[start:]
        return text

    def encode(self, text: str) -> list[int]:
        """Ids of a text with quoted messages in it, without end of sequence.

        Without marks, these are the ids of the whole text with its special tokens, as Transformers'
        `apply_chat_template` has them. With marks, what is between two special tokens is encoded by
        itself.
        """
        ids, clean = [], ""
        for part in self._pattern.split(text):
            if MARK in part or OPENING in part:
                ids += self.vocabulary.encode(clean, specials=True)
                ids += self.vocabulary.encode(unquote(part))
                clean = ""
            else:
                clean += part
        return ids + self.vocabulary.encode(clean, specials=True)

    def decode(self, ids: Sequence[int]) -> str:
        """Text of ids, as the vocabulary writes it."""
        return self.vocabulary.decode(ids)

    def has_specials(self, text: str) -> bool:
        """Whether a special token is in the text outside of quoted messages."""
        return self._pattern.search(text) is not None

    @cached_property
    def _pattern(self) -> re.Pattern[str]:
        # One with a mark behind it is quoted, which matters to those of one character; an even
        # number of marks is what a message begins with.
        return re.compile(f"({self._alternatives}(?!{MARK}(?:{MARK * 2})*(?!{MARK})))")

    @cached_property
    def _any_case(self) -> re.Pattern[str]:
        return re.compile(self._alternatives, re.IGNORECASE)

    @cached_property
    def _alternatives(self) -> str:
        longest_first = sorted(self.vocabulary.special_texts, key=len, reverse=True)
        return f"(?:{'|'.join(map(re.escape, longest_first)) or '(?!)'})"

    @cached_property
    def _beginnings(self) -> tuple[str, ...]:
        return tuple({text[:end] for text in self._lower for end in range(1, len(text))})

    @cached_property
    def _endings(self) -> tuple[str, ...]:
        return tuple({text[start:] for text in self._lower for start in range(1, len(text))})

    @cached_property
    def _insides(self) -> str:
        return MARK.join(text[1:] for text in self._lower)

    @cached_property
    def _lower(self) -> list[str]:
        return [text.lower() for text in self.vocabulary.special_texts]


@dataclass(frozen=True)
class QuotedStyle:
    """Writes as `style` does, with messages quoted (`chat.Style`)."""

    style: Style
    quoting: Quoting

    def write(self, history: Sequence[Message], reply: str) -> tuple[str, str]:
        """Prompt and target, for `Quoting.encode`."""
        quote = self.quoting.quote
        return self.style.write([Message(m.role, quote(m.content)) for m in history], quote(reply))


def unquote(text: str) -> str:
    """The text without marks."""
    return re.sub(MARKS, UNMARKED, text)
