"""What the library warns of, as lines on stderr that read like the other notes of a command.

By themselves Python's log lines have the form of whichever library has logged first: the bare text,
or `WARNING:ul2tune.optim.clocks:` before it. And they would go on with a status line that stands.
"""

from __future__ import annotations

import logging

from ul2tune import status_line


class _Handler(logging.StreamHandler):
    def emit(self, record: logging.LogRecord) -> None:
        status_line.end_standing()
        super().emit(record)

    def format(self, record: logging.LogRecord) -> str:
        return f"{record.levelname.lower()}: {super().format(record)}"


def on_stderr() -> None:
    """From now on this process shows them so."""
    log = logging.getLogger("ul2tune")
    log.addHandler(_Handler())
    log.propagate = False
