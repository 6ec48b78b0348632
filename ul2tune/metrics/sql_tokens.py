"""SQL text -> tokens, as Spider's evaluation cuts it.

Its reference (`process_sql.py` of taoyds/spider) runs NLTK's English word tokenizer over the query.
That has effects of its own, which decide whether a prediction parses: ``a=1`` stays one token, so
does ``a,1``, while ``cannot`` becomes two. They are kept; NLTK and its data files are not needed.

DIVERGES: NLTK looks for sentences first, with a trained model. Here the query is one sentence,
which differs only where a full stop stands before a space inside a query.
"""

from __future__ import annotations

import re

# Longer text than any query; keeps hostile predictions cheap.
MAX_CHARS = 100_000

_STRING = re.compile(r'"[^"]*"')
_ALONE = re.compile(r"(``?|[;@#$%&?!*()<>\[\]{}«»„“”‘’\u2012-\u2015]|\.{2,}|--)")
# A separator, and the character after it that makes it one. NLTK's expression consumes both, so
# that of two separators side by side the second stays attached to what follows.
_SEPARATOR = re.compile(r"([:,])(\D)")
_SLANG = re.compile(r"\b(?:(can)(not)|(gim)(me)|(gon)(na)|(got)(ta)|(lem)(me))\b|\b(wan)(na)(?=\s)")
_CLOSERS = ")]}> »”’"
_COMPARISONS = ("!", ">", "<")


class SqlError(ValueError):
    """The text is no query that Spider's grammar knows; the message says why."""


def tokenize(query: str) -> list[str]:
    """Cuts a query into tokens: lower-cased, strings whole and in double quotes.

    Raises:
      SqlError: on an odd number of quotes, or a query of more than `MAX_CHARS` characters.
    """
    if len(query) > MAX_CHARS:
        raise SqlError(f"the query has {len(query)} characters; the limit is {MAX_CHARS}")
    text = query.replace("'", '"')
    if text.count('"') % 2:
        raise SqlError("a quote is not closed")
    strings: dict[str, str] = {}

    def hide(match: re.Match[str]) -> str:
        key = f"__val_{match.start()}_{match.end() - 1}__"
        strings[key] = match.group()
        return key

    words = split_words(_STRING.sub(hide, text))
    tokens: list[str] = []
    for word in map(str.lower, words):
        if word == "=" and tokens and tokens[-1] in _COMPARISONS:
            tokens[-1] += "="
        else:
            tokens.append(strings.get(word, word))
    return tokens


def split_words(text: str) -> list[str]:
    """NLTK's `NLTKWordTokenizer` for one sentence without quotation marks ``'`` and ``"``."""
    text = _split_full_stop(text)
    text = _SEPARATOR.sub(r" \1 \2", text)
    if text.endswith((",", ":")):
        text = f"{text[:-1]} {text[-1]}"
    text = _ALONE.sub(r" \1 ", text)
    return _SLANG.sub(lambda m: " ".join(["", *filter(None, m.groups()), ""]), text + " ").split()


def _split_full_stop(text: str) -> str:
    head = text.rstrip().rstrip(_CLOSERS)
    if len(head) < 2 or not head.endswith(".") or head.endswith(".."):
        return text
    return f"{head[:-1]} . {text[len(head) :]}"
