"""What one prompt of one task scored: its SeqIO task and template, with its shots and its seed."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass, fields
from typing import Any


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_count(value: Any) -> bool:
    return type(value) is int and value >= 0


def _is_scores(value: Any) -> bool:
    return isinstance(value, Mapping) and all(
        v is None or type(v) in (int, float) for v in value.values()
    )


# What the values of a result are in JSON.
_KINDS = {
    **dict.fromkeys(("prompt", "task", "category", "benchmark", "split_level"), _is_text),
    **dict.fromkeys(("seed", "subtask"), _is_text),
    **dict.fromkeys(("shots", "num_examples"), _is_count),
    "scores": _is_scores,
}


@dataclass(frozen=True, kw_only=True)
class PromptResult:
    """One prompt of one task.

    Attributes:
      prompt: SeqIO task, and template where it has several.
      task, category, benchmark, split_level: the records'. Results of one task are merged, whatever
        their benchmark, which only tells prompts of one name apart.
      shots: demos in the prompt: the most that any example shows, as limits drop some.
      seed: of the rendering.
      num_examples: scored.
      scores: in percent, by name.
      subtask: a part of `task` (a language, a subject), whose prompts are averaged first; empty =
        all of it.
    """

    prompt: str
    task: str
    category: str
    benchmark: str
    split_level: str
    shots: int
    seed: str
    num_examples: int
    scores: Mapping[str, float]
    subtask: str = ""

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return asdict(self)

    @classmethod
    def from_json(cls, row: Any, where: str) -> PromptResult:
        """What :meth:`to_json` gave, with null for NaN, which JSON has not.

        Raises:
          ValueError: that starts with `where`, if it is anything else.
        """
        known = {field.name: field for field in fields(cls)}
        needed = {name for name, field in known.items() if field.default is MISSING}
        if not isinstance(row, Mapping) or not needed <= row.keys() <= known.keys():
            raise ValueError(
                f"{where} must be an object with {', '.join(sorted(needed))}, got {row!r:.80}."
            )
        for name, value in row.items():
            if not _KINDS[name](value):
                raise ValueError(f"{where}: {name} = {value!r:.60} is not what `evaluate` writes.")
        scores = {name: math.nan if v is None else v for name, v in row["scores"].items()}
        return cls(**{**row, "scores": scores})
