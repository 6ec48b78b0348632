"""One line that says how far something is: live on a terminal, a line now and then in a log."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import ClassVar, TextIO


class StatusLine:
    """A line that rewrites itself on a terminal; elsewhere every text is a line of its own.

    Args:
      stream: where to write; None = standard error.
      live_secs: least time between two texts on a terminal.
      quiet_secs: the same elsewhere.
      at_once: the first text is due from the start.
      clock: tells the time in seconds; None = `time.monotonic`.

    Attributes:
      stream, live_secs, quiet_secs: the arguments.
    """

    # The one whose text stands on a terminal, where whatever is printed next would go on with it.
    _standing: ClassVar[StatusLine | None] = None

    def __init__(
        self,
        stream: TextIO | None = None,
        *,
        live_secs: float = 0.2,
        quiet_secs: float = 10.0,
        at_once: bool = False,
        clock: Callable[[], float] | None = None,
    ):
        self.stream = sys.stderr if stream is None else stream
        self.live_secs, self.quiet_secs = live_secs, quiet_secs
        self._clock = clock or time.monotonic
        self._shown = float("-inf") if at_once else self._clock()
        self._width = 0

    def is_due(self) -> bool:
        """Whether enough time has passed since the last text."""
        period = self.live_secs if self.stream.isatty() else self.quiet_secs
        return self._clock() - self._shown >= period

    def put(self, text: str) -> None:
        """Shows a text, which is one line, due or not."""
        self._shown = self._clock()
        if self.stream.isatty():
            # Blanks cover what a longer text left behind.
            self.stream.write("\r" + text.ljust(self._width))
            self._width = len(text)
            StatusLine._standing = self
        else:
            self.stream.write(text + "\n")
        self.stream.flush()

    def end(self) -> None:
        """Leaves the last text on a terminal, so that what is printed next stands below it."""
        if self._width:
            self.stream.write("\n")
            self.stream.flush()
            self._width = 0
            StatusLine._standing = None


def end_standing() -> None:
    """Ends the line that stands on a terminal, if one does: before an error is printed."""
    if StatusLine._standing is not None:
        StatusLine._standing.end()
