"""How long a run has trained, and how fast."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass
class Stopwatch:
    """Time spent on training steps; saves, evaluations and hooks are outside of it.

    Attributes:
      secs: total over all starts of the run; saved with the checkpoint.
    """

    secs: float = 0.0
    _since: float | None = None
    _stopped: float | None = None
    _ran: float = 0.0
    _paused: float = 0.0

    def start(self) -> None:
        if self._since is None:
            self._since = time.perf_counter()
            if self._stopped is not None:
                self._paused += self._since - self._stopped

    def stop(self) -> None:
        if self._since is not None:
            self._stopped = time.perf_counter()
            ran = self._stopped - self._since
            self.secs, self._ran, self._since = self.secs + ran, self._ran + ran, None

    def now(self) -> float:
        return self.secs + self._running()

    def stretch(self) -> float:
        """Seconds on the wall per second of training since the first step of this start: above 1
        where it was stopped in between."""
        ran = self._ran + self._running()
        return 1.0 + self._paused / ran if ran > 0 else 1.0

    def _running(self) -> float:
        return 0.0 if self._since is None else time.perf_counter() - self._since


@dataclass(kw_only=True)
class Rate:
    """Throughput since the last :meth:`restart`.

    Attributes:
      tokens_per_step: positions of one batch, padding included.
      flops_per_step: model FLOPs of one step, or None where the model has no formula.
      peak_flops: of all devices together, or None where the device is unknown.
    """

    tokens_per_step: int
    flops_per_step: float | None
    peak_flops: float | None
    _step: int = 0
    _secs: float = 0.0
    _tokens_seen: int = 0
    _latest: Mapping[str, float] = field(default_factory=dict)

    def restart(self, step: int, secs: float, tokens_seen: int) -> None:
        self._step, self._secs, self._tokens_seen = step, secs, tokens_seen

    def measure(self, step: int, secs: float, tokens_seen: int) -> dict[str, float]:
        """Rates since the restart, or the latest ones where no step has finished since.

        Args:
          step: steps that have run to their end.
          secs: training time.
          tokens_seen: real tokens (no padding) of those steps.
        """
        steps, elapsed = step - self._step, secs - self._secs
        if steps <= 0 or elapsed <= 0:
            return dict(self._latest)
        per_sec = steps / elapsed
        values = {
            "steps_per_sec": per_sec,
            "tokens_per_sec": per_sec * self.tokens_per_step,
            "nonpadding_tokens_per_sec": (tokens_seen - self._tokens_seen) / elapsed,
        }
        if self.flops_per_step:
            values["model_flops_per_sec"] = per_sec * self.flops_per_step
            if self.peak_flops:
                values["mfu"] = values["model_flops_per_sec"] / self.peak_flops
        self._latest = values
        return values
