"""Silences what is printed about a failed save or restore in addition to the error that is raised.

Orbax logs the tracebacks of its threads; every write or read that TensorStore still has under way
finds its event loop closed and prints that; coroutines of Orbax raise once more when they are
collected; and asyncio prints every result that nobody awaited: hundreds of lines around the one
that says what to do. Some come when the process ends, so the silence is never lifted.
"""

from __future__ import annotations

import functools
import inspect
import logging
import sys
from pathlib import Path

import orbax.checkpoint as ocp

_ORBAX = Path(ocp.__file__).parent
_REPEATED = (
    "raised an exception",  # Orbax's threads: the error is raised where the save is waited for
    "Save Finalize thread",
    "in background save thread",
    "exception was never retrieved",
)


@functools.cache
def repeated_errors() -> None:
    """From now on, what only repeats the error of a save or restore is not printed."""
    before = sys.unraisablehook

    def hook(unraisable: sys.UnraisableHookArgs) -> None:
        if not (_is_of_a_closed_loop(unraisable.exc_value) or _is_of_orbax(unraisable.object)):
            before(unraisable)

    sys.unraisablehook = hook
    for name in ("absl", "asyncio"):
        logging.getLogger(name).addFilter(_is_news)


def _is_of_a_closed_loop(error: BaseException | None) -> bool:
    return isinstance(error, RuntimeError) and str(error) == "Event loop is closed"


def _is_of_orbax(source: object) -> bool:
    return inspect.iscoroutine(source) and _ORBAX in Path(source.cr_code.co_filename).parents


def _is_news(record: logging.LogRecord) -> bool:
    message = record.getMessage()
    return record.levelno < logging.ERROR or not any(words in message for words in _REPEATED)
