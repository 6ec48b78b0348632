"""An example as SeqIO gives it to a task's postprocessor, made of what is prepared.

Axis legend: L target length.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ul2tune.data.codec import Example
from ul2tune.data.seqio_metrics import SeqioMetrics
from ul2tune.data.vocab import Vocabulary
from ul2tune.evaluation.tokens import Tokenizer


@dataclass(frozen=True, kw_only=True)
class SeqioExample:
    """What the metrics of a task that is registered in plain SeqIO need of an example.

    Attributes:
      element: of the task's dataset: ids of the features, their texts (``targets_pretokenized``)
        and the task's own fields, as NumPy values, texts as bytes.
      target: text.
      is_answered: some metric compares the model's answer.
      is_scored: some metric wants the target's log-likelihood.
    """

    element: Mapping[str, Any]
    target: str
    is_answered: bool
    is_scored: bool

    @property
    def target_L(self) -> np.ndarray:
        """int32 ids of the target, ended as in training."""
        return self.element["targets"]


def of_row(
    row: Example,
    metrics: SeqioMetrics | None,
    vocabulary: Vocabulary,
    tokenizer: Tokenizer,
    inputs_S: np.ndarray,
) -> SeqioExample | None:
    """The example in a prepared row, whose prompt is `inputs_S` by now; None without `metrics`."""
    if metrics is None:
        return None
    element = {name: as_numpy(value) for name, value in row.fields.items()}
    match row.fields.get("inputs_text"):
        case str(prompt):
            element["inputs_pretokenized"] = as_numpy(prompt)
    match row.fields.get("targets_text"):
        case [str(target)]:
            element["targets_pretokenized"] = as_numpy(target)
        case _:  # none, or the task's own field of this name
            target = vocabulary.decode(row.arrays["targets"])
    ids = {"inputs": inputs_S, "targets": tokenizer.ended_target(row.arrays["targets"])}
    return SeqioExample(
        element={**element, **row.arrays, **ids},
        target=target,
        is_answered=bool(metrics.of_predictions),
        is_scored=bool(metrics.of_scores),
    )


def as_numpy(value: Any) -> Any:
    """A stored field as `tf.data` yields it in NumPy.

    Integers have 64 bits and fractions too, whatever they had. What is ragged becomes an array of
    lists.
    """
    if isinstance(value, str):
        return value.encode()
    if isinstance(value, Mapping):
        return {name: as_numpy(item) for name, item in value.items()}
    if isinstance(value, list):
        items = [_listed(item) for item in value]
        try:
            found = np.array(items)
        except ValueError:  # ragged
            found = np.empty(len(items), object)
            found[:] = items
        # NumPy's own texts lose NULs at their end.
        return np.array(items, object) if found.dtype.kind == "S" else found
    return np.asarray(value)[()]


def _listed(value: Any) -> Any:
    """Bytes for text, in nested lists."""
    if isinstance(value, list):
        return [_listed(item) for item in value]
    return value.encode() if isinstance(value, str) else value
