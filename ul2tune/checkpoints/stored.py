"""The arrays of one checkpoint, one in memory at a time, each verified."""

from __future__ import annotations

import base64
import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ul2tune import tree
from ul2tune.checkpoints import layout
from ul2tune.checkpoints.pieces import StoredArray

log = logging.getLogger(__name__)


class StoredArrays:
    """A checkpoint to look into.

    Attributes:
      step_dir: its folder.
      meta: the JSON saved beside the arrays.
      shapes, dtypes: of every array ("params/…", "opt_state/…", "ema/…", "step"), by path.
    """

    def __init__(self, step_dir: str | Path):
        self.step_dir = Path(step_dir)
        self.meta = layout.read_meta(step_dir)
        leaves = self.meta["leaves"]
        self.shapes = {path: tuple(shape) for path, (shape, *_) in leaves.items()}
        self.dtypes = {path: str(dtype) for path, (_, dtype, *_) in leaves.items()}

    def read(
        self, path: str, shape: Sequence[int] | None = None, dtype: Any | None = None
    ) -> np.ndarray:
        """One array, on the host.

        Args:
          path: its path.
          shape: what the caller expects; None takes what is stored.
          dtype: likewise.

        Raises:
          ValueError: if there is none, or another shape or dtype.
          CorruptCheckpointError: if its files are damaged.
        """
        array = StoredArray(self.step_dir, path)
        wanted = (
            array.shape if shape is None else tuple(shape),
            array.dtype if dtype is None else np.dtype(dtype),
        )
        if (array.shape, array.dtype) != wanted:
            raise ValueError(
                f"{self.step_dir} holds {path!r} as {array.dtype}{list(array.shape)}, this "
                f"configuration wants {wanted[1]}{list(wanted[0])}. Use the model configuration it "
                f"was trained with."
            )
        return np.asarray(array)

    def partitions(self) -> dict[str, str]:
        """How the run that saved it laid arrays over its mesh: path -> "fsdp,-,tensor".

        Orbax notes it for itself, and nothing here depends on it when a checkpoint is read, so a
        damaged note is a warning. {} for a checkpoint that was written piece by piece.
        """
        file = self.step_dir / layout.STATE / "_sharding"
        if not file.is_file():
            return {}
        try:
            return _partitions(json.loads(file.read_text("utf-8")))
        except (ValueError, TypeError, AttributeError) as error:
            log.warning("%s is damaged (%s): how arrays were laid out is not known.", file, error)
            return {}


def _partitions(notes: dict[str, str]) -> dict[str, str]:
    found = {}
    for name, note in notes.items():
        axes = json.loads(note).get("partition_spec")
        if axes:
            path = base64.b64decode(name).decode().replace(".", tree.SEPARATOR)
            named = ("+".join(axis) if isinstance(axis, list) else axis for axis in axes)
            found[path] = ",".join(axis or "-" for axis in named).removesuffix(",-")
    return found
