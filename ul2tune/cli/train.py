"""`ul2tune train`: prepare what is missing, join the other processes, train."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from ul2tune import atomic
from ul2tune.checkpoints import agreement, layout
from ul2tune.cli import allocator, distributed, launch, termination
from ul2tune.cli.prepared import for_run, prepare_missing
from ul2tune.training import lock, preflight
from ul2tune.training.run import train

ROOTS = (prepare_missing, train)
CONFIG_FILE = "config.gin"
log = logging.getLogger(__name__)


def run(options: argparse.Namespace) -> None:
    allocator.keep_freed_memory()
    config = launch.load(options, roots=ROOTS)
    # Hooks read what is prepared. Errors of the rest should not wait for that, which takes hours.
    known = config.arguments(train, without=("hooks",))
    model_dir = Path(known["run"].model_dir)
    index = distributed.initialize(options)
    begins = not layout.steps(model_dir / layout.SUBDIRECTORY)
    with agreement.together():
        if index == 0:
            preflight.check_rows(known["model"], known["data"])
            preflight.check_places(model_dir, known.get("init") if begins else None)
    with for_run(model=known["model"], data=known["data"]):
        config.call(prepare_missing, process_index=index, begins=begins)
    arguments = config.arguments(train)
    with ExitStack() as stack:
        with agreement.together():
            if index == 0:
                stack.enter_context(saved(config.text, model_dir / CONFIG_FILE))
        train(**arguments)


@contextmanager
def saved(text: str, path: Path) -> Iterator[None]:
    """Keeps `text` in `path`, whole at any time: the configuration of the newest checkpoint.

    A start that ends before it has written a checkpoint puts back what was there, or nothing: by an
    error, an interrupt or SIGTERM, or because there was nothing to train.

    Raises:
      ValueError: if another process is training there, whose configuration stays, or nothing can
        be written.
    """
    checkpoints = path.parent / layout.SUBDIRECTORY
    with lock.tidied(path.parent):
        with lock.exclusive(path.parent), lock.writing(path.parent):
            before = path.read_text(encoding="utf-8") if path.exists() else None
            known = _written(checkpoints)
            atomic.write_text(path, text)
            ours = _identity(path)
        try:
            with termination.by_exception():
                yield
        finally:
            # Another start may have come between our lock and the trainer's: the file is its.
            if not _written(checkpoints) - known and _identity(path) == ours:
                _put_back(path, before, keep=bool(known))


def _identity(path: Path) -> tuple[int, int] | None:
    """What tells a file from another one of the same name and content."""
    try:
        status = path.stat()
    except FileNotFoundError:
        return None
    return status.st_ino, status.st_mtime_ns


def _put_back(path: Path, before: str | None, *, keep: bool) -> None:
    """Undoes the writing of `path`; what there was not before goes, unless to `keep` it."""
    try:
        if before is not None:
            atomic.write_text(path, before)
        elif not keep:
            path.unlink()
    except OSError as error:  # what ended the start is the news
        log.warning(
            "%s could not be put back (%s): it is that of a start which saved no checkpoint.",
            path,
            error.strerror,
        )


def _written(checkpoints: Path) -> set[tuple[int, int, int]]:
    """What tells checkpoints apart, also those of one step: a damaged one is written again."""
    found = set()
    for step in layout.steps(checkpoints):
        status = (checkpoints / str(step)).stat()
        found.add((step, status.st_ino, status.st_mtime_ns))
    return found
