"""One live line on standard error: how far, how fast, how long still."""

from __future__ import annotations

import time
from typing import TextIO

from ul2tune.status_line import StatusLine


class Progress:
    """Counts units of work, and writes nothing if `enabled` is off.

    On a terminal one line is overwritten, at most four times a second; elsewhere (a log file) a
    line is written every ten seconds. The last one always stays.

    Args:
      label: what is going on.
      total: units of work, or None if unknown.
      unit: what they are.
      enabled: off in all processes but one.
      done: units an earlier start has done; they do not count for the rate.
      stream: where to write.
    """

    def __init__(
        self,
        label: str,
        total: int | None,
        unit: str = "examples",
        enabled: bool = True,
        done: int = 0,
        stream: TextIO | None = None,
    ):
        self._label, self._total, self._unit = label, total, unit
        self._enabled = enabled
        self._before, self._done = done, done
        self._start = time.monotonic()
        self._line = StatusLine(stream, live_secs=0.25)
        self._told: int | None = None

    def advance(self, count: int) -> None:
        """Counts `count` more units."""
        self._done += count
        if self._enabled and self._line.is_due():
            self._put()

    def close(self) -> None:
        """Writes the last line for good, unless it stands there."""
        if self._enabled:
            if self._told != self._done:
                self._put()
            self._line.end()

    def _put(self) -> None:
        self._told = self._done
        self._line.put(self.line())

    def line(self) -> str:
        """The line as it stands now."""
        rate = (self._done - self._before) / max(time.monotonic() - self._start, 1e-9)
        total = "" if self._total is None else f"/{self._total}"
        text = f"{self._label}: {self._done}{total} {self._unit}, {rate:.1f}/s"
        if self._total is not None and rate and self._done < self._total:
            text += f", {(self._total - self._done) / rate:.0f} s left"
        return text
