"""`ul2tune train`: prepare what is missing, join the other processes, train."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ul2tune.checkpoints import layout
from ul2tune.cli import allocator, distributed, launch
from ul2tune.cli.prepared import prepare_missing
from ul2tune.training import lock
from ul2tune.training.run import train

ROOTS = (prepare_missing, train)
CONFIG_FILE = "config.gin"


def run(options: argparse.Namespace) -> None:
    allocator.keep_freed_memory()
    config = launch.load(options, roots=ROOTS)
    arguments = config.arguments(train)
    index = distributed.initialize(options)
    config.call(prepare_missing, process_index=index)
    if index:
        train(**arguments)
        return
    with saved(config.text, Path(arguments["run"].model_dir) / CONFIG_FILE):
        train(**arguments)


@contextmanager
def saved(text: str, path: Path) -> Iterator[None]:
    """Keeps `text` in `path`; puts back what was there (or nothing) if it is refused."""
    before = path.read_text(encoding="utf-8") if path.exists() else None
    with lock.writing(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    try:
        yield
    except ValueError:
        if before is not None:
            path.write_text(before, encoding="utf-8")
        elif not (path.parent / layout.SUBDIRECTORY).exists():  # nothing was trained under it
            path.unlink()
        raise
