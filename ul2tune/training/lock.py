"""The lock on MODEL_DIR: one run, one writer."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from ul2tune import file_lock


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
def exclusive(model_dir: str | Path) -> Iterator[None]:
    """Holds MODEL_DIR for this process; the system lets go of it however the process ends.

    Raises:
      ValueError: if another process is training in the same folder, or it cannot be written to.
    """
    with writing(model_dir):
        Path(model_dir).mkdir(parents=True, exist_ok=True)
        opened = open(Path(model_dir) / ".lock", "w", encoding="utf-8")  # noqa: SIM115
    with opened as file:
        try:
            file_lock.lock(file)
        except BlockingIOError as error:
            raise ValueError(
                f"Another process is training in {model_dir}. Wait for it, stop it, or use another "
                f"MODEL_DIR."
            ) from error
        yield
