"""What went into batches, counted: fill, raw tokens, sources, truncated examples."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np


@dataclass(frozen=True, kw_only=True)
class Counts:
    """Counts over some rows; they add up over batches and workers.

    Attributes:
      rows: rows made, padding rows included.
      inputs_tokens, targets_tokens: real tokens of each feature.
      truncated_examples: fixed examples that were longer than the feature lengths.
      segments, raw_tokens: by source id - 1, int64; raw tokens are those of the text before noise.
    """

    rows: int
    inputs_tokens: int
    targets_tokens: int
    truncated_examples: int
    segments: np.ndarray
    raw_tokens: np.ndarray

    @staticmethod
    def zero(num_sources: int) -> Counts:
        """Nothing counted yet."""
        zeros = np.zeros(num_sources, np.int64)
        return Counts(
            rows=0,
            inputs_tokens=0,
            targets_tokens=0,
            truncated_examples=0,
            segments=zeros,
            raw_tokens=zeros,
        )

    def __add__(self, other: Counts) -> Counts:
        return Counts(
            **{f.name: getattr(self, f.name) + getattr(other, f.name) for f in fields(self)}
        )

    @property
    def is_padding(self) -> bool:
        """Whether no row holds anything."""
        return not self.segments.any()

    def summary(self, row_lengths: tuple[int, int], names: Sequence[str]) -> dict[str, float]:
        """Scalars for the log.

        Args:
          row_lengths: room of a row on its two sides; the second 0 for one-sided rows.
          names: of the sources.
        """
        if row_lengths[1]:
            used = {"inputs": self.inputs_tokens, "targets": self.targets_tokens}
        else:
            used = {"rows": self.inputs_tokens + self.targets_tokens}
        result = {
            f"fill/{side}": tokens / max(1, self.rows * length)
            for (side, tokens), length in zip(used.items(), row_lengths)
        }
        result |= {
            "rows": self.rows,
            "segments": int(self.segments.sum()),
            "raw_tokens": int(self.raw_tokens.sum()),
            "truncated_examples": self.truncated_examples,
        }
        for i, name in enumerate(names):
            result[f"segments/{name}"] = int(self.segments[i])
            result[f"raw_tokens/{name}"] = int(self.raw_tokens[i])
        return result
