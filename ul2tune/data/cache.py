"""A folder for what can be made again: trained vocabularies, embedded tasks, compiled programs."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

VARIABLE = "UL2TUNE_CACHE_DIR"


def folder() -> Path:
    """``$UL2TUNE_CACHE_DIR``, else `ul2tune` in the user's cache folder.

    Raises:
      ValueError: if the user has no home folder, as in a container that runs under an unregistered
        user id. The system's temporary folder is no substitute: others may put programs there.
    """
    if chosen := os.environ.get(VARIABLE):
        return Path(chosen)
    try:
        base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    except RuntimeError as error:
        raise ValueError(
            f"User {os.getuid()} has no home folder (HOME is not set), so there is no place for "
            f"caches: set {VARIABLE} to a folder that may be written to."
        ) from error
    return Path(base) / "ul2tune"


@contextlib.contextmanager
def writing(path: str | Path) -> Iterator[None]:
    """Turns an OSError raised while something is written to `path` into one sentence.

    Raises:
      ValueError: naming the place and the variable that sets another.
    """
    try:
        yield
    except OSError as error:
        raise ValueError(
            f"{path} cannot be written ({error.strerror}): set {VARIABLE} to a folder that may be "
            f"written to."
        ) from error
