"""One line that says how far something is: live on a terminal, a line now and then in a log."""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import time
from collections.abc import Callable, Hashable, Iterator
from typing import ClassVar, TextIO

# How often a terminal is told that something still goes on.
_TICK_SECS = 1.0


class StatusLine:
    """A line that rewrites itself on a terminal; elsewhere every text is a line of its own.

    Args:
      stream: where to write; None = standard error.
      at_once: the first text is due from the start.
      clock: tells the time in seconds; None = `time.monotonic`.

    Attributes:
      stream: the argument.
      live_secs, quiet_secs: least time between two texts: on a terminal, and elsewhere.
    """

    live_secs, quiet_secs = 0.2, 10.0
    # The one whose text stands on a terminal, where whatever is printed next would go on with it.
    _standing: ClassVar[StatusLine | None] = None

    def __init__(
        self,
        stream: TextIO | None = None,
        *,
        at_once: bool = False,
        clock: Callable[[], float] | None = None,
    ):
        self.stream = sys.stderr if stream is None else stream
        self._clock = clock or time.monotonic
        self._shown = float("-inf") if at_once else self._clock()
        self._state: Hashable = None
        self._width = 0

    def is_due(self) -> bool:
        """Whether enough time has passed since the last text."""
        period = self.live_secs if self.stream.isatty() else self.quiet_secs
        return self._clock() - self._shown >= period

    def put(self, text: str) -> None:
        """Shows a text, which is one line, due or not. A terminal shows as much as it has columns
        for: what goes on in its next row could not be rewritten."""
        self._shown = self._clock()
        if self.stream.isatty():
            if StatusLine._standing is not self:
                end_standing()
            room = _columns(self.stream) - 1  # in the last one some go to the next row already
            if 0 < room < len(text):
                text = f"{text[: room - 1]}…"
            # Blanks cover what a longer text left behind.
            self.stream.write("\r" + text.ljust(self._width))
            self._width = len(text)
            StatusLine._standing = self
        else:
            self.stream.write(text + "\n")
        self.stream.flush()

    def show(self, state: Hashable, text: Callable[[], str], *, now: bool = False) -> None:
        """Shows a text if one is due, or `now`, unless it tells of the state shown last."""
        if state != self._state and (now or self.is_due()):
            self._state = state
            self.put(text())

    @contextlib.contextmanager
    def during(self, what: str) -> Iterator[None]:
        """Shows `what` and the seconds it takes while the block runs. In a thread: the block may be
        one call that returns after minutes."""
        start, over = self._clock(), threading.Event()
        period = _TICK_SECS if self.stream.isatty() else self.quiet_secs

        def tell() -> None:
            while not over.wait(period):
                self.put(f"{what}, {self._clock() - start:.0f} s")

        thread = threading.Thread(target=tell, daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()
            self.end()

    def note(self, text: str) -> None:
        """Prints lines that stay, below what stands on a terminal."""
        self.end()
        self.stream.write(text + "\n")
        self.stream.flush()

    def end(self) -> None:
        """Leaves the last text on a terminal, so that what is printed next stands below it."""
        if self._width:
            self.stream.write("\n")
            self.stream.flush()
            self._width = 0
            StatusLine._standing = None


def _columns(stream: TextIO) -> int:
    """Of a terminal; 0 if it does not say."""
    try:
        return os.get_terminal_size(stream.fileno()).columns
    except (OSError, ValueError):  # it has no file
        return 0


class Progress:
    """Counts units of work in a :class:`StatusLine`, with their rate and the time left. The last
    line always stays.

    Args:
      label: what is going on.
      total: units of work, or None if unknown.
      unit: what they are.
      per: how many of what is counted make a unit.
      enabled: off in all processes but one; then nothing is written.
      done: counted by an earlier start; it does not count for the rate.
      stream: where to write; None = standard error.
    """

    def __init__(
        self,
        label: str,
        total: int | None,
        unit: str,
        *,
        per: int = 1,
        enabled: bool = True,
        done: int = 0,
        stream: TextIO | None = None,
    ):
        self._label, self._total, self._unit, self._per = label, total, unit, per
        self._enabled = enabled
        self._before, self._done = done, done
        self._start = time.monotonic()
        self._line = StatusLine(stream)

    def advance(self, count: int) -> None:
        """Counts more."""
        self._done += count
        if self._enabled:
            self._line.show(self._done, self.line)

    def close(self) -> None:
        """Writes the last line for good, unless it stands there."""
        if self._enabled:
            self._line.show(self._done, self.line, now=True)
            self._line.end()

    def line(self) -> str:
        """The line as it stands now."""
        rate = (self._done - self._before) / max(time.monotonic() - self._start, 1e-9)
        total = "" if self._total is None else f"/{self._total // self._per}"
        done = f"{self._done // self._per}{total} {self._unit}"
        text = f"{self._label}: {done}, {rate / self._per:.1f}/s"
        if self._total is not None and rate and self._done < self._total:
            text += f", {(self._total - self._done) / rate:.0f} s left"
        return text


def end_standing() -> None:
    """Ends the line that stands on a terminal, if one does: before an error is printed."""
    if StatusLine._standing is not None:
        StatusLine._standing.end()


def say(text: str) -> None:
    """Prints to standard error, below the line that stands on a terminal, if one does."""
    end_standing()
    print(text, file=sys.stderr, flush=True)
