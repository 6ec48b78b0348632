"""Locks on files and folders, of which the system lets go however a process ends.

A lock belongs to what was opened: it holds until that is closed. Some file systems have none; their
error is an OSError that is no BlockingIOError.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any


def lock(opened: IO[Any] | int, *, shared: bool = False, wait: bool = False) -> None:
    """Locks an open file or descriptor.

    Args:
      opened: what is locked.
      shared: others may hold shared locks at the same time, but no exclusive one.
      wait: until it is free, however long.

    Raises:
      BlockingIOError: if another has it, unless this waits.
      OSError: if it cannot be locked.
    """
    kind = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
    fcntl.flock(opened, kind if wait else kind | fcntl.LOCK_NB)


@contextmanager
def locked_folder(folder: str | Path, *, wait: bool = False) -> Iterator[None]:
    """Holds a folder itself until the block or the process ends.

    Raises:
      OSError: as :func:`lock`, and if the folder cannot be opened.
    """
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        lock(descriptor, wait=wait)
        yield
    finally:
        os.close(descriptor)
