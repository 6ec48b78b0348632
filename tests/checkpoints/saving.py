"""The checkpoint of a run that never was."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ul2tune.checkpoints import layout
from ul2tune.checkpoints.manager import CheckpointManager
from ul2tune.types import Tree


def save(model_dir: Path, step: int, state: Tree, meta: Mapping[str, Any] | None = None) -> None:
    """Leaves this one step, and what is noted beside it, as a run in `model_dir` would."""
    manager = CheckpointManager(model_dir / layout.SUBDIRECTORY, keep_last=1)
    manager.save(step, state, meta or {})
    manager.close()
