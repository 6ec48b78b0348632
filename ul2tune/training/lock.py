"""The lock on MODEL_DIR: one run, one writer."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from ul2tune import file_lock

_FILE = ".lock"
# How often another start may take the lock's file away while this one opens it.
_TRIES = 10


@contextlib.contextmanager
def writing(model_dir: str | Path) -> Iterator[None]:
    """For the first thing written to MODEL_DIR: turns an error of the file system into a sentence.

    Raises:
      ValueError: naming MODEL_DIR and what is wrong with it.
    """
    try:
        yield
    except OSError as error:
        raise ValueError(
            f"MODEL_DIR = {str(model_dir)!r} cannot be written to ({error.strerror}). Give a "
            f"folder that exists and is writable, or that can be made."
        ) from error


@contextlib.contextmanager
def tidied(model_dir: str | Path) -> Iterator[None]:
    """Takes the lock's file away after the block, and the folders that were not there before, if
    MODEL_DIR holds nothing else then and nobody has it."""
    model_dir = Path(model_dir)
    new = [path for path in (model_dir, *model_dir.parents) if not os.path.lexists(path)]
    try:
        yield
    finally:
        with contextlib.suppress(OSError):  # another has it, or it is not ours to change
            if os.listdir(model_dir) == [_FILE]:
                with _taken(model_dir):
                    if os.listdir(model_dir) == [_FILE]:
                        (model_dir / _FILE).unlink()
        for path in new:
            with contextlib.suppress(OSError):  # not empty
                path.rmdir()


@contextlib.contextmanager
def exclusive(model_dir: str | Path) -> Iterator[None]:
    """Holds MODEL_DIR for this process; the system lets go of it however the process ends.

    It is made if need be, and :func:`tidied`.

    Raises:
      ValueError: if another process is training in the same folder, or it cannot be written to.
    """
    with tidied(model_dir):
        with writing(model_dir):
            try:
                opened = _taken(Path(model_dir))
            except BlockingIOError as error:
                raise ValueError(
                    f"Another process is training in {model_dir}. Wait for it, stop it, or use "
                    f"another MODEL_DIR."
                ) from error
        with opened:
            yield


def _taken(model_dir: Path) -> IO[str]:
    """The lock's file, locked.

    Raises:
      BlockingIOError: if another process has it.
      OSError: if it cannot be made or locked.
    """
    path = model_dir / _FILE
    for _ in range(_TRIES):
        with contextlib.suppress(FileNotFoundError), contextlib.ExitStack() as stack:
            model_dir.mkdir(parents=True, exist_ok=True)
            file = stack.enter_context(open(path, "w", encoding="utf-8"))
            file_lock.lock(file)
            # Who had it may have taken the file away: what we have is then nobody's lock.
            if os.path.samestat(os.fstat(file.fileno()), os.stat(path)):
                stack.pop_all()
                return file
    raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path))
