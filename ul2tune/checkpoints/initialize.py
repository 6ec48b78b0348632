"""Parameters out of a finished run: for `INITIAL_CHECKPOINT_PATH`, evaluation and inference."""

from __future__ import annotations

import dataclasses
import functools
import logging
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ul2tune import tree
from ul2tune.checkpoints import agreement, layout
from ul2tune.checkpoints.description import describe
from ul2tune.checkpoints.restore import CorruptCheckpointError, restore_step
from ul2tune.models import base
from ul2tune.types import Tree

log = logging.getLogger(__name__)
PARAMS, OPTIMIZER, EMA = "params", "opt_state", "ema"
# An error about a missing step lists so many of the newest ones.
_SHOWN = 10


@dataclass(frozen=True, kw_only=True)
class OneCheckpoint:
    """What an `InitFn` that reads one checkpoint knows of it.

    Attributes:
      path: a MODEL_DIR (its newest checkpoint), its `checkpoints` folder, or one step's folder.
      keep_step: False makes the run's step counter start at 0.
    """

    path: str
    keep_step: bool = True

    @functools.cached_property
    def step_dir(self) -> Path:
        """The step's folder, found once: the run that writes there may go on."""
        return resolve(self.path)

    def check_source(self) -> None:
        """As `types.InitFn` says."""
        find(self.path)

    @property
    def first_step(self) -> int:
        """The step the new run starts counting from."""
        return layout.read_meta(self.step_dir)["step"] if self.keep_step else 0

    @property
    def step_dirs(self) -> tuple[Path, ...]:
        """What it reads."""
        return (self.step_dir,)


@dataclass(frozen=True, kw_only=True)
class InitialCheckpoint(OneCheckpoint):
    """An `InitFn` that starts a run from the parameters of another one.

    The data streams start fresh, and so does the optimiser with its schedule, unless it is kept.
    The step counter goes on from the checkpoint's, as in T5X: `TRAIN_STEPS` includes the earlier
    steps, `TRAIN_STEPS_RELATIVE` does not.

    Attributes:
      keep_optimizer: take over the optimiser's state too (T5X does so): moments and the count of
        updates that schedules go by. The optimiser must be configured as it was.
      ema: start from the average of the parameters (`RunConfig.ema_decay`) instead of the last.
    """

    keep_optimizer: bool = False
    ema: bool = False

    def __call__(self, abstract: Tree) -> Tree:
        return load_params(self.step_dir, abstract, ema=self.ema)

    def __str__(self) -> str:
        """For the table at the start of a run."""
        words = [in_words(self.path, self.step_dir)]
        words += ["its averaged parameters"] if self.ema else []
        words += ["with its optimiser's state"] if self.keep_optimizer else []
        words += [] if self.keep_step else ["counting from 0"]
        return ", ".join(words)

    def optimizer_state(self, abstract: Tree) -> Tree:
        """Reads the optimiser's state, verified, in structure and shardings of `abstract`.

        Raises:
          ValueError: if the checkpoint has none, or that of another optimiser or configuration.
          CorruptCheckpointError: if the checkpoint is damaged.
        """
        return restore_step(self.step_dir, {OPTIMIZER: abstract}).state[OPTIMIZER]


def from_checkpoint(
    path: str, keep_step: bool = True, keep_optimizer: bool = False, ema: bool = False
) -> InitialCheckpoint:
    """For `INITIAL_CHECKPOINT_PATH`; see :class:`InitialCheckpoint`."""
    return InitialCheckpoint(path=path, keep_step=keep_step, keep_optimizer=keep_optimizer, ema=ema)


def in_words(path: str, step_dir: Path) -> str:
    """The checkpoint that `path`, as the user wrote it, was found to mean."""
    return f"step {layout.read_meta(step_dir)['step']} of {path}"


def has_ema(meta: Mapping[str, Any]) -> bool:
    """Whether the checkpoint of this JSON holds an average of its parameters."""
    return any(path.startswith(f"{EMA}/") for path in meta["leaves"])


def stored_paths(step_dir: Path, paths: Iterable[str], *, ema: bool) -> dict[str, str]:
    """Parameter path -> path of the array that holds it.

    The average covers what trained; parameters that were frozen are their own average.

    Raises:
      ValueError: if `ema` is asked of a checkpoint without one.
    """
    meta = layout.read_meta(step_dir)
    if not ema:
        return {path: f"{PARAMS}/{path}" for path in paths}
    if not has_ema(meta):
        raise ValueError(
            f"{step_dir} holds no average of its parameters: it was trained without "
            f"RunConfig.ema_decay. Ask for the parameters themselves."
        )
    averaged = meta["leaves"].keys()
    return {
        path: f"{EMA}/{path}" if f"{EMA}/{path}" in averaged else f"{PARAMS}/{path}"
        for path in paths
    }


def load_params(path: str | Path, abstract: Tree, *, ema: bool = False) -> Tree:
    """Reads all parameters and nothing else, verified, in the shardings of `abstract`. Collective.

    Args:
      path: as in :func:`resolve`.
      abstract: tree of `jax.ShapeDtypeStruct` with shardings.
      ema: the average of the parameters instead of the last ones.

    Raises:
      ValueError: if there is no checkpoint or no average, or the parameters are not those of this
        model: too few, too many, or of another shape.
      CorruptCheckpointError: if the checkpoint is damaged.
    """
    step_dir = resolve(path)
    flat = layout.flatten(abstract)
    stored = stored_paths(step_dir, flat, ema=ema)
    wanted = tree.unflatten({stored[path]: leaf for path, leaf in flat.items()})
    paths = {f"{PARAMS}/{path}" for path in flat}

    def accept(meta: Mapping[str, Any], where: str) -> None:
        # An untied head, for example, that this model would not read.
        unused = [p for p in meta["leaves"] if p.startswith(f"{PARAMS}/") and p not in paths]
        if unused:
            raise ValueError(
                f"{where} holds {unused[0]!r}, which this model does not have "
                f"({len(unused)} such parameters). Use the model configuration it was trained with."
            )

    try:
        restored = restore_step(step_dir, wanted, accept)
    except CorruptCheckpointError as error:
        raise CorruptCheckpointError(
            f"The checkpoint {step_dir} is damaged: {error}. Name the folder of another step."
        ) from error
    log.info("Loaded the %s of %s.", "averaged parameters" if ema else "parameters", step_dir)
    arrays = layout.flatten(restored.state)
    return layout.unflatten({path: arrays[stored[path]] for path in flat}, abstract)


def warn_of_other_model(path: str | Path, model: Any, ignored: Collection[str] = ()) -> None:
    """Warns where the checkpoint was trained with another model of the same shapes.

    Shapes and names are checked when parameters are read; an activation or a scale leaves no trace
    in them, and the wrong one gives plausible, worse numbers. Only a warning: it may be meant.
    Called after they were read: where that fails, its error says all there is to say.

    Args:
      path: as in :func:`resolve`.
      model: the configuration.
      ignored: fields that may differ.
    """
    step_dir = resolve(path)
    saved = layout.read_meta(step_dir).get("config", {}).get("model", {})
    for field in dataclasses.fields(model):
        now = describe(getattr(model, field.name))
        then = saved.get(field.name, now)
        if field.name not in base.FREE_FIELDS and field.name not in ignored and then != now:
            log.warning(
                "%s was trained with %s = %r; this model has %r.", step_dir, field.name, then, now
            )


def resolve(path: str | Path) -> Path:
    """The step folder that `path` means: itself, or the newest one of a MODEL_DIR or `checkpoints`
    folder. Collective: process 0 looks, so a run that is being written means one step to all.

    A damaged newest checkpoint of a run is not replaced by an older one here: the caller named what
    to load.

    Raises:
      ValueError: if there is none.
    """
    return Path(agreement.from_first(lambda: str(find(path))))


def find(path: str | Path) -> Path:
    """As :func:`resolve`, as this process sees it."""
    path = Path(path).absolute()
    if (path / layout.META).is_dir():
        return path
    for root in (path / layout.SUBDIRECTORY, path):
        if steps := layout.steps(root):
            return root / str(steps[-1])
    raise ValueError(
        f"No checkpoint at {str(path)!r}: expected a MODEL_DIR, its {layout.SUBDIRECTORY!r} "
        f"folder, or the folder of one step.{_what_is_there(path)}"
    )


def _what_is_there(path: Path) -> str:
    """A model that was not imported, or the steps where one was asked for that is not there."""
    if (path / "config.json").is_file():
        return (
            f" This looks like a model of Transformers: first `ul2tune import hf {path} MODEL_DIR`."
        )
    if not path.name.isdigit() or not (steps := layout.steps(path.parent)):
        return ""
    if len(steps) == 1:
        return f" There is step {steps[0]}."
    shown = [str(step) for step in steps[-_SHOWN:]]
    return f" There are steps {'… ' if len(steps) > _SHOWN else ''}{', '.join(shown)}."
