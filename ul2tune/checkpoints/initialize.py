"""Parameters out of a finished run: for `INITIAL_CHECKPOINT_PATH`, evaluation and inference."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

from ul2tune.checkpoints import layout
from ul2tune.checkpoints.restore import restore_step
from ul2tune.types import Tree

log = logging.getLogger(__name__)
PARAMS = "params"


@dataclass(frozen=True, kw_only=True)
class InitialCheckpoint:
    """An `InitFn` that starts a run from the parameters of another one.

    The optimiser state, its schedule and the data streams start fresh. The step counter goes on
    from the checkpoint's, as in T5X: `TRAIN_STEPS` includes the earlier steps,
    `TRAIN_STEPS_RELATIVE` does not.

    Attributes:
      path: a MODEL_DIR (its newest checkpoint), its `checkpoints` folder, or one step's folder.
      keep_step: False makes the counter start at 0 too.
    """

    path: str
    keep_step: bool = True

    @property
    def first_step(self) -> int:
        """The step the new run starts counting from."""
        return layout.read_meta(resolve(self.path))["step"] if self.keep_step else 0

    def __call__(self, abstract: Tree) -> Tree:
        return load_params(self.path, abstract)


def from_checkpoint(path: str, keep_step: bool = True) -> InitialCheckpoint:
    """For `INITIAL_CHECKPOINT_PATH`; see :class:`InitialCheckpoint`."""
    return InitialCheckpoint(path=path, keep_step=keep_step)


def load_params(path: str | Path, abstract: Tree) -> Tree:
    """Reads parameters only, verified, in the shardings of `abstract`. Collective.

    Args:
      path: as in :func:`resolve`.
      abstract: tree of `jax.ShapeDtypeStruct` with shardings.

    Raises:
      ValueError: if there is no checkpoint, or the parameters are not those of this model.
      CorruptCheckpointError: if the checkpoint is damaged.
    """
    step_dir = resolve(path)
    restored = restore_step(step_dir, {PARAMS: abstract})
    log.info("Loaded the parameters of %s.", step_dir)
    return restored.state[PARAMS]


def resolve(path: str | Path) -> Path:
    """The step folder that `path` means: itself, or the newest one of a MODEL_DIR or `checkpoints`
    folder.

    A damaged newest checkpoint of a run is not replaced by an older one here: the caller named what
    to load.

    Raises:
      ValueError: if there is none.
    """
    path = Path(path).absolute()  # Orbax takes no other
    if (path / layout.META).is_dir():
        return path
    for root in (path / layout.SUBDIRECTORY, path):
        if steps := layout.steps(root):
            return root / str(steps[-1])
    raise ValueError(
        f"No checkpoint at {str(path)!r}: expected a MODEL_DIR, its {layout.SUBDIRECTORY!r} "
        f"folder, or the folder of one step."
    )
