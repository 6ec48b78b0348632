"""What SeqIO's Evaluator computes of a task, as its manifest holds it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ul2tune.named_function import NamedFunction


@dataclass(frozen=True, kw_only=True)
class SeqioMetrics:
    """A task's postprocessor and metric functions.

    Attributes:
      postprocess: makes of a target or an answer what metrics compare; None = nothing is done.
      of_predictions: metric functions of targets and predictions.
      of_scores: metric functions of targets and their log-likelihoods.
    """

    postprocess: NamedFunction | None
    of_predictions: tuple[NamedFunction, ...]
    of_scores: tuple[NamedFunction, ...]

    @property
    def functions(self) -> tuple[NamedFunction, ...]:
        """All metric functions."""
        return (*self.of_predictions, *self.of_scores)

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> SeqioMetrics:
        """What `dataclasses.asdict` gave.

        Raises:
          ValueError, TypeError, KeyError: if it is anything else.
        """
        postprocess, parse = data["postprocess"], NamedFunction.from_json
        return SeqioMetrics(
            postprocess=None if postprocess is None else parse(postprocess),
            of_predictions=tuple(map(parse, data["of_predictions"])),
            of_scores=tuple(map(parse, data["of_scores"])),
        )
