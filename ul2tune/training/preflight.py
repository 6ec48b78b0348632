"""Checks of a run before its data is prepared, which may take hours."""

from __future__ import annotations

from pathlib import Path

from ul2tune.training import lock
from ul2tune.types import InitFn


def check_places(model_dir: Path, init: InitFn | None) -> None:
    """Whether MODEL_DIR can be written to and is nobody else's, and `init` finds what it reads.

    Uses no device, and may be called in one process alone.

    Args:
      model_dir: of the run; made for a moment if need be.
      init: source of initial parameters of a run that begins.

    Raises:
      ValueError, OSError: if not, naming the place.
    """
    check_source = getattr(init, "check_source", None)
    if check_source is not None:
        check_source()
    with lock.exclusive(model_dir):
        pass
