"""Metrics between the device and the files: sums and weights, fetched late, added in a fixed
order."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import jax
import numpy as np

from ul2tune.training.step import BY_SOURCE, Metrics

# The loss and gradient of a step, and the parameters after it, which a checkpoint would hold.
MUST_BE_FINITE = ("loss", "grad_norm", "param_norm")


class NonFiniteLossError(FloatingPointError):
    """Loss, gradient or parameters are NaN or infinite; the last checkpoint is intact."""


@dataclass(frozen=True, kw_only=True)
class StepRecord:
    """One step whose metrics are still on the device.

    Attributes:
      step: number of steps done after it.
      metrics: device arrays.
      streams: the feed's state before the batch was drawn; replays it exactly.
      sources: `decoder_source_ids` of this process's rows, if the batch has them.
    """

    step: int
    metrics: Metrics
    streams: Mapping[str, np.ndarray]
    sources: np.ndarray | None


def fetch(metrics: Metrics, source_names: Sequence[str]) -> dict[str, tuple[float, float]]:
    """Device metrics -> Python floats, losses by source as ``loss/<source>``. Blocks."""
    values: dict[str, tuple[float, float]] = {}
    for name, (total, weight) in sorted(jax.device_get(metrics).items()):
        if name == BY_SOURCE:
            for source, t, w in zip(source_names, total, weight):
                values[f"loss/{source}"] = (float(t), float(w))
        else:
            values[name] = (float(total), float(weight))
    return values


def means(sums: Mapping[str, tuple[float, float]]) -> dict[str, float]:
    """Sum / weight of everything that has weight."""
    return {name: total / weight for name, (total, weight) in sorted(sums.items()) if weight > 0}


def add(total: dict[str, tuple[float, float]], values: Mapping[str, tuple[float, float]]) -> None:
    """Adds in place, in float64."""
    for name, (value, weight) in values.items():
        old = total.get(name, (0.0, 0.0))
        total[name] = (old[0] + value, old[1] + weight)


@dataclass
class Window:
    """The metrics since the last log line. Saved with a checkpoint, so that a resumed file is the
    same.

    The host runs one step ahead of what it has fetched: :meth:`settle` waits for the step before
    the one just dispatched, so the device always has work queued.

    Attributes:
      source_names: what `decoder_source_ids` 1, 2, … stand for.
      sums: (sum, weight) by name over the settled steps since the last :meth:`take`.
      latest: the newest settled step's means.
      pending: steps whose metrics are still on the device.
      tokens_seen: real tokens (no padding) of all settled steps of the run, both sides.
    """

    source_names: Sequence[str]
    sums: dict[str, tuple[float, float]] = field(default_factory=dict)
    latest: dict[str, float] = field(default_factory=dict)
    pending: deque[StepRecord] = field(default_factory=deque)
    tokens_seen: int = 0

    def push(self, record: StepRecord) -> None:
        self.pending.append(record)

    def settle(self, keep: int = 0) -> StepRecord | None:
        """Fetches all but the `keep` newest steps; returns the first that is not finite, if any."""
        while len(self.pending) > keep:
            record = self.pending.popleft()
            values = fetch(record.metrics, self.source_names)
            self.latest = means(values)
            if not all(math.isfinite(self.latest.get(name, 0.0)) for name in MUST_BE_FINITE):
                return record
            add(self.sums, values)
            sides = (pair for name, pair in values.items() if name.endswith("_fill"))
            self.tokens_seen += int(sum(real for real, _ in sides))
        return None

    def take(self) -> dict[str, float]:
        """The means since the last call."""
        assert not self.pending
        result, self.sums = means(self.sums), {}
        return {**result, "tokens_seen": self.tokens_seen}

    def to_json(self) -> dict[str, Any]:
        """Exact: JSON floats round-trip."""
        assert not self.pending
        sums = {name: list(pair) for name, pair in sorted(self.sums.items())}
        return {"sums": sums, "tokens_seen": self.tokens_seen}

    def restore(self, saved: Mapping[str, Any]) -> None:
        self.sums = {name: (pair[0], pair[1]) for name, pair in saved["sums"].items()}
        self.tokens_seen = saved["tokens_seen"]
