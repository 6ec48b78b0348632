"""`ul2tune train`: prepare what is missing, join the other processes, train."""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from ul2tune import atomic
from ul2tune.checkpoints import agreement, layout
from ul2tune.cli import allocator, distributed, launch
from ul2tune.cli.prepared import prepare_missing
from ul2tune.training import lock
from ul2tune.training.run import train

ROOTS = (prepare_missing, train)
CONFIG_FILE = "config.gin"


def run(options: argparse.Namespace) -> None:
    allocator.keep_freed_memory()
    config = launch.load(options, roots=ROOTS)
    # Hooks read what is prepared. Errors of the rest should not wait for that.
    model_dir = Path(config.arguments(train, without=("hooks",))["run"].model_dir)
    index = distributed.initialize(options)
    begins = not layout.steps(model_dir / layout.SUBDIRECTORY)
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
    with lock.exclusive(path.parent), lock.writing(path.parent):
        before = path.read_text(encoding="utf-8") if path.exists() else None
        known = _written(checkpoints)
        atomic.write_text(path, text)
    try:
        with _terminated_by_exception():
            yield
    finally:
        if not _written(checkpoints) - known:
            if before is not None:
                atomic.write_text(path, before)
            elif not known:
                path.unlink()


def _written(checkpoints: Path) -> set[tuple[int, int, int]]:
    """What tells checkpoints apart, also those of one step: a damaged one is written again."""
    found = set()
    for step in layout.steps(checkpoints):
        status = (checkpoints / str(step)).stat()
        found.add((step, status.st_ino, status.st_mtime_ns))
    return found


@contextmanager
def _terminated_by_exception() -> Iterator[None]:
    """Here SIGTERM ends the process as an exit does. The loop's own handler saves instead, and of
    several processes JAX's, which must stay."""
    if distributed.is_joined():
        yield
        return
    before = signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
