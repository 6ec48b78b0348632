"""Answers to questions about tables: is the predicted list of values the right one?

all_ex       UnifiedSKG: both texts cut at ", ", numbers compared as numbers, order ignored
denotation   the evaluator of WikiTableQuestions (Pasupat & Liang 2015, arXiv:1508.00305):
             values are numbers, dates or normalised strings, compared as sets
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ul2tune.metrics.references import best, paired

DELIMITER = ", "

_SIGNED, _UNSIGNED = re.compile(r"[+-][0-9]+[.]?[0-9]*"), re.compile(r"[0-9]*[.]?[0-9]*")
_QUOTES = (("‘’´`", "'"), ("“”", '"'), ("‐‑‒–—−", "-"))
_UNIFORM = str.maketrans({char: plain for chars, plain in _QUOTES for char in chars})
_MARKS, _NUMBERED = "•♦†‡*#+", re.compile(r"\[\d+\]")
_QUOTED = re.compile(r'"([^"]*)"')
_TOLERANCE = 1e-6


@dataclass(frozen=True, kw_only=True)
class CellValue:
    """One value.

    Attributes:
      text: normalised.
      number: if it is one; a year alone counts as a number.
      date: (year, month, day), -1 where not stated.
    """

    text: str
    number: float | None = None
    date: tuple[int, int, int] | None = None

    @property
    def identity(self) -> float | tuple[int, int, int] | str:
        """What makes two values of a list one: the number or date, however it is written."""
        if self.number is not None:
            return self.number
        return self.text if self.date is None else self.date

    def matches(self, other: CellValue) -> bool:
        """Whether two values mean the same."""
        if self.text == other.text:
            return True
        if self.number is not None and other.number is not None:
            return abs(self.number - other.number) < _TOLERANCE
        return self.date is not None and self.date == other.date


def score_all_ex(prediction: str, references: Sequence[str]) -> float:
    """UnifiedSKG's `all_ex` for WikiTQ: 1 if the values of the two texts are the same.

    Values are what stands between ", ", so that an answer with a comma in it is several on both
    sides. Case counts: references are lower-cased.

    Raises:
      ValueError: if there are no references.
    """
    values = _plain_values(prediction)
    return best(float(values == _plain_values(reference)) for reference in references)


def score_denotation(prediction: str, references: Sequence[str]) -> float:
    """1 if prediction and a reference, each cut at ", ", denote the same.

    Raises:
      ValueError: if there are no references.
    """
    values = prediction.split(DELIMITER)
    return best(float(same_denotation(values, r.split(DELIMITER))) for r in references)


def all_ex(targets: Sequence[Any], predictions: Sequence[str]) -> dict[str, float]:
    """Mean :func:`score_all_ex` and :func:`score_denotation` in percent, with SeqIO's signature;
    raises as `references.paired`."""
    pairs = paired("all_ex", targets, predictions)
    scores = {"all_ex": score_all_ex, "denotation": score_denotation}
    return {
        name: 100.0 * sum(score(text, references) for references, text in pairs) / len(pairs)
        for name, score in scores.items()
    }


def same_denotation(predicted: Sequence[str], answers: Sequence[str]) -> bool:
    """Whether two lists of values are the same set (`check_denotation` of WikiTableQuestions).

    The lists must have equally many different values, and every answer must match a prediction.
    """
    found, expected = _different(predicted), _different(answers)
    if len(found) != len(expected):
        return False
    return all(any(answer.matches(value) for value in found) for answer in expected)


def _different(texts: Sequence[str]) -> list[CellValue]:
    """Values without repetitions: numbers and dates are the same however they are written, and the
    first of them stays with its text, as in the reference's set."""
    different: dict[Any, CellValue] = {}
    for value in map(parse_value, texts):
        different.setdefault(value.identity, value)
    return list(different.values())


def parse_value(text: str) -> CellValue:
    """A value from its text: a number if it is one, else a date ``YYYY-MM-DD``, else a string.

    Parts of a date that are not known are ``xx`` or ``xxxx``; with only a year it is a number.
    """
    number = _number(text)
    if number is not None:
        return CellValue(text=normalize_value(text), number=number)
    date = _date(text)
    if date is None:
        return CellValue(text=normalize_value(text))
    if date[1:] == (-1, -1):
        return CellValue(text=normalize_value(text), number=float(date[0]))
    return CellValue(text=normalize_value(text), date=date)


def normalize_value(text: str) -> str:
    """WikiTableQuestions' normalisation of strings.

    Accents go, quotation marks and dashes become plain; citations, details in brackets at the end
    and outer quotation marks go until nothing changes; then a full stop at the end, repeated white
    space, and case.
    """
    decomposed = unicodedata.normalize("NFKD", text)
    text = "".join(c for c in decomposed if unicodedata.category(c) != "Mn").translate(_UNIFORM)
    previous = None
    while text != previous:
        previous = text
        text = _drop_details(_drop_citations(text.strip()).strip())
        if quoted := _QUOTED.fullmatch(text.strip()):
            text = quoted[1]
    return " ".join(text.removesuffix(".").split()).lower()


def _drop_citations(text: str) -> str:
    """Without ``[1]``, ``[note]`` and marks at the end; a note that is all there is stays."""
    while text:
        if text[-1] in _MARKS:
            text = text[:-1]
            continue
        # Between its brackets a citation has no closing one.
        start = text.find("[", text.rfind("]", 0, -1) + 1) if text[-1] == "]" else -1
        if start == 0 and not _NUMBERED.fullmatch(text):
            start = text.find("[", 1)
        if start < 0:
            break
        text = text[:start]
    return text


def _drop_details(text: str) -> str:
    """Without `` (what stands in brackets)`` at the end."""
    while text.endswith(")"):
        start = text.find(" (", max(text.rfind(")", 0, -1) + 1, 1))
        if start < 0:
            break
        text = text[:start]
    return text


def _number(text: str) -> float | None:
    try:
        number = float(text)
    except ValueError:
        return None
    if not math.isfinite(number):
        return None
    # Cut off, not rounded, as in the reference.
    return float(int(number)) if abs(number - round(number)) < _TOLERANCE else number


def _date(text: str) -> tuple[int, int, int] | None:
    parts = text.lower().split("-")
    if len(parts) != 3:
        return None
    try:
        year = -1 if parts[0] in ("xx", "xxxx") else int(parts[0])
        month, day = (-1 if part == "xx" else int(part) for part in parts[1:])
    except ValueError:
        return None
    valid = (month == -1 or 1 <= month <= 12) and (day == -1 or 1 <= day <= 31)
    return (year, month, day) if valid and (year, month, day) != (-1, -1, -1) else None


def _plain_values(text: str) -> list[str]:
    return sorted(_as_float(part.strip()) for part in text.split(DELIMITER))


def _as_float(text: str) -> str:
    numeric = _SIGNED.fullmatch(text) or _UNSIGNED.fullmatch(text)
    # `float` reads digits of every length; a lone point is no number.
    return str(float(text)) if text and numeric and text != "." else text
