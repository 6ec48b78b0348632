"""What every export reads: the arrays of a checkpoint, layer by layer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from ul2tune import tree
from ul2tune.checkpoints import initialize, layout
from ul2tune.checkpoints.pieces import StoredArray
from ul2tune.models import base
from ul2tune.signal_handlers import raise_ignored_interrupt


class Reader:
    """Parameters of a checkpoint by path, none of them in memory, each verified when it is read.

    Args:
      step_dir: the checkpoint.
      config: its model.
      ema: the average of the parameters that a run kept, instead of the last ones.

    Raises:
      ValueError: if it holds other parameters than its model has, or no average.
    """

    def __init__(self, step_dir: Path, config: Any, *, ema: bool = False):
        self.step_dir = step_dir
        self.shapes = tree.flatten(base.abstract_params(config))
        prefix = f"{initialize.PARAMS}/"
        saved = {p for p in layout.read_meta(step_dir)["leaves"] if p.startswith(prefix)}
        unused = sorted(saved - {prefix + path for path in self.shapes})
        if unused:
            raise ValueError(f"{step_dir} holds {unused[0]!r}, which its model does not have.")
        self.stored = initialize.stored_paths(step_dir, self.shapes, ema=ema)

    def __call__(self, path: str) -> StoredArray:
        raise_ignored_interrupt()  # an export reads one parameter after the other
        array = StoredArray(self.step_dir, self.stored[path])
        wanted = self.shapes[path].shape
        if (array.shape, array.dtype) != (wanted, np.float32):
            raise ValueError(
                f"{self.step_dir} holds {path!r} as {array.dtype}{list(array.shape)}, its model "
                f"has float32{list(wanted)}."
            )
        return array
