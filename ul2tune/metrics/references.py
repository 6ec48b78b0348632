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
