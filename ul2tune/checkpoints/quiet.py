"""Silences what is printed about a failed save or restore in addition to the error that is raised.

Orbax logs the tracebacks of its threads; every write or read that TensorStore still has under way
finds its event loop closed and prints that; coroutines of Orbax raise once more when they are
collected; and asyncio prints every result that nobody awaited: hundreds of lines around the one
that says what to do. Some come when the process ends, so the silence is never lifted.

Orbax also keeps a note of its own with every checkpoint, which nothing of ours reads. Where that is
damaged it logs what it found; what is said instead is a sentence.
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
# Their first argument is the file. Imported checkpoints never had one.
_DAMAGED_NOTE = ("Failed to json parse Metadata file", "Failed to read Metadata file")
_NO_NOTE = "Metadata file does not exist"

log = logging.getLogger(__name__)


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
    if message.startswith(_DAMAGED_NOTE) and isinstance(record.args, tuple):
        log.warning(
            "%s is damaged: Orbax's note of when the checkpoint was written. The run does not need "
            "it; what it does need is checked where it is read.",
            record.args[0],
        )
        return False
    if message.startswith(_NO_NOTE):
        return False
    return record.levelno < logging.ERROR or not any(words in message for words in _REPEATED)
