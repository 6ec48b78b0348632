"""References of an example together with what else a metric needs to judge a prediction.

Most metrics compare texts. Some need more: the schema of a database, a dialogue's state, a table.
`Record.metric_context` (JSON text) carries that to here, so that every score has one signature,
`(prediction, references)`, and every metric function SeqIO's, `(targets, predictions)`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any


class References(tuple[str, ...]):
    """The references of one example; to a metric that needs no context, a sequence of strings.

    Attributes:
      context: JSON text, or empty.
    """

    context: str

    def __new__(cls, references: Iterable[str], context: str = "") -> References:
        self = super().__new__(cls, references)
        self.context = context
        return self


def best(scores: Iterable[float]) -> float:
    """The score of the reference that is met best.

    Raises:
      ValueError: if there is none: a 0 would look like a score.
    """
    found = max(scores, default=None)
    if found is None:
        raise ValueError("There are no references: a prediction is scored by at least one.")
    return found


def paired(
    metric: str, targets: Sequence[Any], predictions: Sequence[str]
) -> list[tuple[Sequence[str], str]]:
    """The references of each example, and its prediction.

    Args:
      metric: its name, for messages.
      targets: references of each example: a string, or several.
      predictions: one per example.

    Raises:
      ValueError: if there are not as many predictions as targets, or none, or an example has no
        references.
    """
    if len(targets) != len(predictions) or not len(targets):
        raise ValueError(
            f"{metric} needs one prediction per target, got {len(predictions)} for {len(targets)}."
        )
    references = [[target] if isinstance(target, str) else target for target in targets]
    for number, texts in enumerate(references, start=1):
        if not len(texts):
            raise ValueError(
                f"{metric}: example {number} of {len(targets)} has no references: a prediction is "
                f"scored by at least one."
            )
    return list(zip(references, predictions, strict=True))


def context_of(references: Sequence[str], metric: str) -> dict[str, Any]:
    """The context of an example.

    Raises:
      ValueError: if there is none, naming the metric that needs it.
    """
    context = getattr(references, "context", "")
    if not context:
        raise ValueError(
            f"Metric {metric!r} needs more than references, which this example does not have "
            f"(`Record.metric_context`). Use it with the tasks it belongs to."
        )
    return json.loads(context)
