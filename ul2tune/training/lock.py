"""One run, one writer."""

from __future__ import annotations

import contextlib
import fcntl
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def exclusive(model_dir: str | Path) -> Iterator[None]:
    """Holds MODEL_DIR for this process; the system lets go of it however the process ends.

    Raises:
      ValueError: if another process is training in the same folder.
    """
    path = Path(model_dir) / ".lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ValueError(
                f"Another process is training in {model_dir}. Wait for it, stop it, or use another "
                f"MODEL_DIR."
            ) from error
        yield
