"""Classification: class-wise F1, and scores over several seeds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ul2tune.metrics.references import paired


def score_macro_f1(targets: Sequence[str], predictions: Sequence[str]) -> float:
    """Mean F1 over the classes that occur among the targets, in [0, 1].

    A class that is only predicted counts as errors of the others, not as a class of its own
    (scikit-learn's macro average counts it, with an F1 of 0).

    Args:
      targets: the right class of each example.
      predictions: the predicted one, or any other text.

    Raises:
      ValueError: if there are not as many predictions as targets, or none.
    """
    if len(targets) != len(predictions) or not targets:
        raise ValueError(
            f"macro_f1 needs one prediction per target, got {len(predictions)} for {len(targets)}."
        )
    right = [target.strip() for target in targets]
    said = [prediction.strip() for prediction in predictions]
    scores = []
    for name in sorted(set(right)):
        hits = sum(t == p == name for t, p in zip(right, said))
        scores.append(2.0 * hits / (right.count(name) + said.count(name)))
    return sum(scores) / len(scores)


def macro_f1(
    targets: Sequence[str | Sequence[str]], predictions: Sequence[str]
) -> dict[str, float]:
    """:func:`score_macro_f1` in percent, with SeqIO's signature; of several references the first
    is the class. Raises as `references.paired`.
    """
    classes = [texts[0] for texts, _ in paired("macro_f1", targets, predictions)]
    return {"macro_f1": 100.0 * score_macro_f1(classes, predictions)}


def over_seeds(scores: Mapping[Any, float]) -> dict[str, float]:
    """Average and worst of one score under several seeds (MetaICL's two numbers).

    >>> over_seeds({100: 40.0, 13: 42.0, 21: 38.0})
    {'average': 40.0, 'worst': 38.0, 'num_seeds': 3}

    Raises:
      ValueError: if there is none.
    """
    if not scores:
        raise ValueError("over_seeds needs the score of at least one seed.")
    values = list(scores.values())
    return {"average": sum(values) / len(values), "worst": min(values), "num_seeds": len(values)}
