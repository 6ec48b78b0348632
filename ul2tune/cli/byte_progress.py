"""How much of a model is imported, exported or merged, and how fast. On stderr."""

from __future__ import annotations

import time

from ul2tune.status_line import StatusLine


class ByteProgress:
    """Counts bytes and shows them in a `StatusLine`.

    Args:
      what: what is done to them.
      total: how many there are.
    """

    def __init__(self, what: str, total: int):
        self._what, self._total, self._done = what, total, 0
        self._line = StatusLine(live_secs=0.1)
        self._start = time.monotonic()

    def add(self, num_bytes: int) -> None:
        """Counts bytes that are done."""
        self._done += num_bytes
        if self._line.is_due():
            self._line.put(self._text())

    def end(self) -> None:
        """Shows the last state, which stays."""
        self._line.put(self._text())
        self._line.end()

    def _text(self) -> str:
        seconds = max(time.monotonic() - self._start, 1e-9)
        share = 100 * self._done / max(self._total, 1)
        return (
            f"{self._what}: {self._done / 1e9:.2f} of {self._total / 1e9:.2f} GB ({share:.0f} %), "
            f"{self._done / 1e6 / seconds:.0f} MB/s"
        )
