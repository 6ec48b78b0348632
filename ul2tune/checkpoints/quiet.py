"""Leaving out what is printed about a failed save beside the error that is raised.

Orbax logs the tracebacks of its threads, each write that TensorStore still has under way finds its
event loop closed and prints that, and asyncio prints every result that nobody waited for: hundreds
of lines around the one that says what to do. Some come when the process ends, so this stays.
"""

from __future__ import annotations

import functools
import logging
import sys

_REPEATED = (
    "raised an exception",  # Orbax's threads: the error is raised where the save is waited for
    "Save Finalize thread",
    "in background save thread",
    "exception was never retrieved",
)


@functools.cache
def failed_saves() -> None:
    """From now on, what only repeats the error of a save is not printed."""
    before = sys.unraisablehook

    def hook(unraisable: sys.UnraisableHookArgs) -> None:
        error = unraisable.exc_value
        if not (isinstance(error, RuntimeError) and str(error) == "Event loop is closed"):
            before(unraisable)

    sys.unraisablehook = hook
    for name in ("absl", "asyncio"):
        logging.getLogger(name).addFilter(_is_news)


def _is_news(record: logging.LogRecord) -> bool:
    message = record.getMessage()
    return record.levelno < logging.ERROR or not any(words in message for words in _REPEATED)
