"""Rank classification: which answer choice wins, and whether it is right."""

from __future__ import annotations

import math
from collections.abc import Sequence


def rank_choice(scores: Sequence[float]) -> int:
    """Index of the best-scored answer choice; the first one on a tie.

    NUMERICS: scores are compared after rounding to 1e-4, so that the order of a reduction, which
    differs between numbers of devices, decides no tie.

    Raises:
      ValueError: if a score is not a number: parameters that are not finite prefer nothing.
    """
    if any(math.isnan(score) for score in scores):
        raise ValueError(
            f"The answer choices have the log-likelihoods {list(scores)}: the checkpoint's "
            f"parameters are not finite, or too large for the model's dtype. Try an earlier step."
        )
    rounded = [round(score, 4) for score in scores]
    return rounded.index(max(rounded))


def is_correct_choice(choice: str, references: Sequence[str]) -> bool:
    """T0's test: the choice equals a reference up to surrounding white space."""
    return choice.strip() in {reference.strip() for reference in references}
