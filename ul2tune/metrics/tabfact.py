"""TabFact (Chen et al. 2020, arXiv:1909.02164): is the statement entailed by the table?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

LABELS = {1: "entailed", 0: "refuted"}


def score_tabfact(prediction: str, references: Sequence[str]) -> float:
    """1 if the prediction is exactly the label; another case or a full stop is wrong."""
    return float(prediction in references)


def tabfact_accuracy(targets: Sequence[Any], predictions: Sequence[str]) -> dict[str, float]:
    """Accuracy in percent, with SeqIO's signature."""
    pairs = zip(targets, predictions, strict=True)
    right = [score_tabfact(p, [t] if isinstance(t, str) else t) for t, p in pairs]
    return {"tabfact_accuracy": 100.0 * sum(right) / max(len(right), 1)}
