"""DATA_DIR while `prepare` works on it: a lock against a second `prepare`, and read-only folders.

Clusters share data that most of their users can only read. What is there can be checked all the
same, and where everything is up to date, nothing has to be written.
"""

from __future__ import annotations

import contextlib
import errno
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from ul2tune import file_lock

_FOR_READING_ONLY = (errno.EROFS, errno.EACCES, errno.EPERM)


@dataclass(frozen=True, kw_only=True)
class Access:
    """What may be done to a data folder.

    Attributes:
      data_dir: the folder.
      obstacle: why nothing can be written to it; empty if it can.
    """

    data_dir: Path
    obstacle: str = ""

    def check(self, needed: str) -> None:
        """Called before something is written.

        Args:
          needed: what is missing or out of date, as a clause for the message.

        Raises:
          ValueError: if it cannot be written.
        """
        if self.obstacle:
            raise ValueError(
                f"DATA_DIR = {str(self.data_dir)!r} cannot be written to ({self.obstacle}), and "
                f"{needed}. Give a folder that is writable, or have `ul2tune prepare` run by "
                f"someone who may write to this one."
            )


@contextlib.contextmanager
def hold(data_dir: Path) -> Iterator[Access]:
    """Lets one `prepare` at a time into a folder; the system unlocks it however the process ends.

    Processes that can only read a folder share it.

    Raises:
      ValueError: if there is no such folder and it cannot be made.
    """
    path = data_dir / ".prepare.lock"
    obstacle = ""
    try:
        data_dir.mkdir(parents=True, exist_ok=True)
        # In a shared folder the lock's file may be another user's. A file can be locked without
        # being writable.
        others = path.is_file() and not os.access(path, os.W_OK) and os.access(data_dir, os.W_OK)
        lock = path.open("r" if others else "w")
    except OSError as error:
        if error.errno not in _FOR_READING_ONLY or not data_dir.is_dir():
            raise ValueError(
                f"DATA_DIR = {str(data_dir)!r} cannot be written to ({error.strerror}). Give a "
                f"folder that exists and is writable, or that can be made."
            ) from error
        obstacle = error.strerror or str(error)
        lock = _open_to_read(path)
    if not os.access(data_dir, os.W_OK):  # the file may be writable where its folder is not
        obstacle = obstacle or os.strerror(errno.EACCES)
    if obstacle:
        print(f"{data_dir} can only be read: what is there is checked.", file=sys.stderr)
    with lock as file:
        if file is not None:
            _lock(file, data_dir, shared=bool(obstacle))
        yield Access(data_dir=data_dir, obstacle=obstacle)


def _open_to_read(path: Path) -> contextlib.AbstractContextManager[IO[Any] | None]:
    """The lock's file; None where there is none, or where it is not readable."""
    try:
        return path.open("r")
    except OSError:
        return contextlib.nullcontext()


def _lock(file: IO[Any], data_dir: Path, *, shared: bool) -> None:
    try:
        try:
            file_lock.lock(file, shared=shared)
        except BlockingIOError:
            print(
                f"Waiting for another process that prepares data in {data_dir} …",
                file=sys.stderr,
                flush=True,
            )
            file_lock.lock(file, shared=shared, wait=True)
    except OSError:
        if not shared:
            raise
        # Some shared file systems have no locks; a process that only reads can do without.
