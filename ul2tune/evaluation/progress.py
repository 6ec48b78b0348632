"""One live line on standard error: how far, how fast, how long still."""

from __future__ import annotations

import sys
import time
from typing import TextIO


class Progress:
    """Counts units of work. Writes at most four times a second, and nothing if `enabled` is off.

    Args:
      label: what is going on.
      total: units of work, or None if unknown.
      unit: what they are.
      enabled: off in all processes but one.
      stream: where to write; on a terminal the line is overwritten, in a file only the last stays.
    """

    def __init__(
        self,
        label: str,
        total: int | None,
        unit: str = "examples",
        enabled: bool = True,
        stream: TextIO | None = None,
    ):
        self._label, self._total, self._unit = label, total, unit
        self._stream = sys.stderr if stream is None else stream
        self._live = enabled and self._stream.isatty()
        self._enabled = enabled
        self._done, self._start, self._shown = 0, time.monotonic(), 0.0

    def advance(self, count: int) -> None:
        """Counts `count` more units."""
        self._done += count
        now = time.monotonic()
        if self._live and now - self._shown > 0.25:
            self._shown = now
            self._stream.write(f"\r{self.line()}\x1b[K")
            self._stream.flush()

    def close(self) -> None:
        """Writes the last line for good."""
        if self._enabled:
            self._stream.write(f"\r{self.line()}\x1b[K\n" if self._live else f"{self.line()}\n")
            self._stream.flush()

    def line(self) -> str:
        """The line as it stands now."""
        seconds = max(time.monotonic() - self._start, 1e-9)
        rate = self._done / seconds
        total = "" if self._total is None else f"/{self._total}"
        text = f"{self._label}: {self._done}{total} {self._unit}, {rate:.1f}/s"
        if self._total and self._done:
            text += f", {(self._total - self._done) / rate:.0f} s left"
        return text
