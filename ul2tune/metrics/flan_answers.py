"""What Flan's evaluation takes as the answer out of a model's output.

Source: `postprocessors.py` of FLAN v1 and v2. The functions take the text alone; a reference is
treated as the authors do with `is_target=True`.
"""

from __future__ import annotations

from collections.abc import Sequence

from ul2tune.metrics.references import best

_ENDS = (".", ",", "?", " ", "\n")
_MARKERS = ("answer is", "final answer", "Final answer", "answer:", "Answer:")


def take_first_word(text: str, *, lower_case: bool = False) -> str:
    """The first word of the first line, without a final ";", "." or ",".

    >>> take_first_word(" yes, of course")
    'yes'
    """
    word = text.strip().split("\n")[0].split(" ")[0]
    word = word[:-1] if word.endswith((";", ".", ",")) else word
    return word.lower() if lower_case else word


def take_first_line(text: str) -> str:
    """The first line, without outer white space before it."""
    return text.strip().split("\n")[0]


def take_first_paragraph(text: str, *, end: str = "\n\n\n", remove: str = "") -> str:
    """What stands before `end`, after every `remove` is taken out."""
    text = text.replace(remove, "") if remove else text
    return text.lstrip().split(end)[0]


def take_cot_answer(text: str, *, is_target: bool = False, parentheses: bool = True) -> str:
    """The answer at the end of a chain of thought: what follows the last "answer is", "final
    answer" or "answer:", without a punctuation mark on either side.

    >>> take_cot_answer("3 + 4 = 7. So the answer is (B).")
    'B'

    Args:
      text: output or reference; an empty one stays empty (DIVERGES: the authors' code stops).
      is_target: a reference, in which nothing is searched for.
      parentheses: take "(B)" as "B" (False: the authors' variant for BBH).
    """
    answer = text.strip()
    answer = answer[:-1].strip() if answer.endswith(_ENDS) else answer
    if not is_target:
        for marker in _MARKERS:
            answer = answer.split(marker)[-1].strip()
        answer = answer[1:].strip() if answer.startswith((*_ENDS, ":")) else answer
        answer = answer[:-1].strip() if answer.endswith((*_ENDS, ":")) else answer
    if parentheses and answer.startswith("(") and answer.endswith(")"):
        answer = answer[1:-1].strip()
    return answer


def score_flan_cot(prediction: str, references: Sequence[str]) -> float:
    """1 if the answer at the end of the prediction is that at the end of a reference, which may be
    a chain of thought too.

    Raises:
      ValueError: if there are no references.
    """
    answer = take_cot_answer(prediction)
    return best(float(answer == take_cot_answer(reference)) for reference in references)


def score_flan_first_word(prediction: str, references: Sequence[str]) -> float:
    """1 if both start with the same word, whatever its case.

    Raises:
      ValueError: if there are no references.
    """
    word = take_first_word(prediction, lower_case=True)
    return best(float(word == take_first_word(text, lower_case=True)) for text in references)
