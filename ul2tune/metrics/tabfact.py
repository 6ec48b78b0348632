"""TabFact (Chen et al. 2020, arXiv:1909.02164): is the statement entailed by the table?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ul2tune.metrics.references import best, paired

LABELS = {1: "entailed", 0: "refuted"}


def score_tabfact(prediction: str, references: Sequence[str]) -> float:
    """1 if the prediction is exactly the label; another case or a full stop is wrong.

    Raises:
      ValueError: if there are no references.
    """
    return best(float(prediction == reference) for reference in references)


def tabfact_accuracy(targets: Sequence[Any], predictions: Sequence[str]) -> dict[str, float]:
    """Accuracy in percent, with SeqIO's signature; raises as `references.paired`."""
    pairs = paired("tabfact_accuracy", targets, predictions)
    right = [score_tabfact(prediction, references) for references, prediction in pairs]
    return {"tabfact_accuracy": 100.0 * sum(right) / len(right)}
