"""The final answer in a model's text, as each evaluation suite takes it out.

    gsm8k  "… so 9 * 2 = <<9*2=18>>18.\\n#### 18"           -> "18"
    bbh    "… So the answer is (B)."                         -> "(B)"
    mmlu   "B", "(B) because …", "The answer is B."          -> "B"

`extract_…` returns the answer, or "" where there is none; `score_…` compares it with references and
is what `ul2tune.metrics.registry.SCORES` lists.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from fractions import Fraction

from ul2tune.metrics.references import best

_ANSWER_IS = "answer is "
# Where GSM8K's solutions ("#### 18"), its authors' models ("A: 18") and chains of thought end.
_GSM8K_MARKS = re.compile(r"####|^A:|\banswer is\b:?", re.MULTILINE)
# What a text sets around its answer: Markdown's bold, LaTeX's formulas and box.
_WRAPPING = re.compile(r"(?:\s|\*\*|\\?\$|\\[(\[]|\\boxed\{)*")
_NUMBER = re.compile(r"-?\$?\s?(\d[\d,]*(?:\.\d+)?|\.\d+)")
_ANNOTATION = re.compile(r"<<[^<>]*>>")
_LETTER_MARKS = re.compile(r"\banswer is\b:?")
_LETTER = re.compile(r"\(?([A-D])(?![A-Za-z0-9'’])\)?")


def extract_bbh(text: str) -> str:
    """What follows the last "answer is ", to the end of its line, without a final full stop.

    All of the first line if the text does not say "answer is" (direct prompts). Source: the outputs
    and accuracies published with BIG-Bench Hard (Suzgun et al. 2022), which this rule reproduces.
    """
    answer = text.rpartition(_ANSWER_IS)[2].strip().partition("\n")[0].strip()
    return answer.removesuffix(".")


def score_bbh(prediction: str, references: Sequence[str]) -> float:
    """1 if the extracted answer equals a reference, letter case included.

    Raises:
      ValueError: if there are no references.
    """
    answer = extract_bbh(prediction)
    return best(float(answer == reference) for reference in references)


def extract_gsm8k(text: str) -> str:
    """The number after the last ``####``, ``A:`` (at the start of a line) or "answer is".

    Thousands separators, a currency sign, ``**``, a formula's ``$``, ``\\(`` or ``\\[`` and
    ``\\boxed{`` around it are dropped. Text without any of these marks has no answer: the last
    number of an unfinished calculation is not one (Cobbe et al. 2021).
    """
    marks = list(_GSM8K_MARKS.finditer(text))
    if not marks:
        return ""
    start = _WRAPPING.match(text, marks[-1].end())
    assert start is not None, "it matches the empty text too"
    found = _NUMBER.match(text, start.end())
    if found is None:
        return ""
    sign = "-" if found[0].startswith("-") else ""
    return sign + found[1].replace(",", "")


def score_gsm8k(prediction: str, references: Sequence[str]) -> float:
    """1 if the extracted number equals a reference: a bare number, or a solution that ends in one.

    Numbers are compared as numbers: 18.0 is 18.

    Raises:
      ValueError: if there are no references.
    """
    answer = extract_gsm8k(prediction)
    wanted = [extract_gsm8k(text) or extract_gsm8k(f"#### {text}") for text in references]
    return best(float(bool(answer and text) and _same_number(answer, text)) for text in wanted)


def _same_number(text: str, other: str) -> bool:
    try:
        return Fraction(text) == Fraction(other)
    except ValueError:  # Python reads 4,300 digits at most; a model may repeat one for ever
        return text == other


def extract_mmlu(text: str) -> str:
    """The letter A-D that an answer in words starts with, or that follows its last "answer is".

    For models that can only generate. Published scores compare the probabilities of the letters:
    ``rank_accuracy_first_token``.
    """
    starts = [mark.end() for mark in _LETTER_MARKS.finditer(text)]
    found = _LETTER.match(text[starts[-1] if starts else 0 :].strip())
    return found[1] if found else ""


def score_mmlu(prediction: str, references: Sequence[str]) -> float:
    """1 if the extracted letter is a reference.

    Raises:
      ValueError: if there are no references.
    """
    letter = extract_mmlu(prediction)
    return best(float(letter == reference) for reference in references)


def strip_annotations(text: str) -> str:
    """A GSM8K solution without its calculator annotations ``<<48/2=24>>``."""
    return _ANNOTATION.sub("", text)
