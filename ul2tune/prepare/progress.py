"""The progress line of `prepare`: shards, documents/s, tokens/s, time left. On stderr."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TextIO

from ul2tune.status_line import StatusLine

_BAR_WIDTH = 20


@dataclass(kw_only=True)
class Progress:
    """Counts work and shows it: one live line on a terminal, a line now and then in a log.

    Attributes:
      title: what is being prepared.
      num_shards: how many there are.
      total_bytes: input to read in all, None if unknown (then shards tell the time left).
      stream, clock: where to write, what tells the time.
    """

    title: str
    num_shards: int
    total_bytes: int | None = None
    stream: TextIO = field(default_factory=lambda: sys.stderr)
    clock: Callable[[], float] = time.monotonic

    def __post_init__(self):
        self.num_documents = self.num_tokens = self.num_bytes = self.num_done = 0
        self._started = self.clock()
        self._line = StatusLine(self.stream, clock=self.clock)

    def add(self, num_documents: int, num_tokens: int, num_bytes: int) -> None:
        """Counts work since the last call."""
        self.num_documents += num_documents
        self.num_tokens += num_tokens
        self.num_bytes += num_bytes
        self._show()

    def finish_shard(self) -> None:
        self.num_done += 1
        self._show()

    def close(self) -> None:
        """Shows the final line."""
        self._line.put(self.line())
        self._line.end()

    def line(self) -> str:
        """The line as text."""
        elapsed = max(self.clock() - self._started, 1e-9)
        done = self._fraction()
        bar = "=" * round(_BAR_WIDTH * done)
        left = f"{_duration(elapsed * (1 - done) / done)} left" if done > 0 else "time left unknown"
        return (
            f"{self.title} [{bar:<{_BAR_WIDTH}}] {self.num_done}/{self.num_shards} shards  "
            f"{self.num_documents:,} documents ({self.num_documents / elapsed:,.0f}/s)  "
            f"{self.num_tokens:,} tokens ({self.num_tokens / elapsed:,.0f}/s)  "
            + (f"in {_duration(elapsed)}" if self.num_done == self.num_shards else left)
        )

    def _fraction(self) -> float:
        by_shards = self.num_done / max(1, self.num_shards)
        if self.total_bytes:
            # Shards that were finished before this run count too, but read nothing.
            return min(1.0, max(by_shards, self.num_bytes / self.total_bytes))
        return by_shards

    def _show(self) -> None:
        if self._line.is_due():
            self._line.put(self.line())


def _duration(secs: float) -> str:
    minutes, secs = divmod(round(secs), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{secs:02}" if hours else f"{minutes}:{secs:02}"
