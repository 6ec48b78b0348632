"""Reading checkpoints: every array is checked against what was saved before anyone uses it."""

from __future__ import annotations

import contextlib
import itertools
import logging
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp
from etils import epath

from ul2tune import tree
from ul2tune.checkpoints import agreement, layout, quiet
from ul2tune.checkpoints.fingerprint import fingerprints
from ul2tune.types import Tree

log = logging.getLogger(__name__)
CorruptCheckpointError = layout.CorruptCheckpointError


@dataclass(frozen=True, kw_only=True)
class Restored:
    """A verified checkpoint: `state` in the structure asked for, `meta` as saved."""

    step: int
    state: Tree
    meta: Mapping[str, Any]


def restore_latest(
    directory: str | Path,
    abstract: Tree,
    accept: Callable[[Mapping[str, Any], str], None] | None = None,
) -> Restored | None:
    """Restores the newest checkpoint that verifies; None if there is no checkpoint at all.
    Collective.

    A damaged checkpoint is passed over with a warning, and the one before it is tried. Once one
    verifies, those passed over are set aside as ``<step>.bad``; if none does, nothing is renamed:
    the cause may be outside of them (memory, the file system).

    Args:
      directory: the folder of step folders.
      abstract: tree of `jax.ShapeDtypeStruct` with shardings.
      accept: called with the JSON saved beside the arrays and the checkpoint's name, before the
        arrays are read; raises ValueError if this run should not resume from it.

    Raises:
      ValueError: if a sound checkpoint does not fit `abstract` (another model or optimiser), or
        `accept` refuses it.
      CorruptCheckpointError: if there are checkpoints and none of them verifies: a run never starts
        over silently.
      PermissionError: if one may not be read: it is not damaged, so no older one is used instead.
    """
    directory = Path(directory).absolute()
    damaged: dict[Path, str] = {}
    # Process 0's view of the directory: all try the same steps in the same order.
    for step in reversed(agreement.from_first(lambda: layout.steps(directory))):
        step_dir = directory / str(step)
        try:
            restored = restore_step(step_dir, abstract, accept)
        except CorruptCheckpointError as error:
            damaged[step_dir] = str(error)
            log.warning("Checkpoint %d is damaged: %s. Trying the one before it.", step, error)
            continue
        for bad in damaged:
            log.warning("Checkpoint %s was set aside as %s.", bad.name, _set_aside(bad))
        return restored
    aside_names = sorted(p.name for p in directory.glob("*.bad*"))
    if damaged or aside_names:
        reasons = [f"{step_dir.name}: {reason}" for step_dir, reason in damaged.items()]
        raise CorruptCheckpointError(
            f"None of the checkpoints in {directory} can be trusted "
            f"({'; '.join(reasons) or 'set aside earlier'}); set aside before: {aside_names}, "
            f"none now. If memory or the file system is the cause, repair it and start again; else "
            f"start in a new MODEL_DIR, or remove this folder to start over."
        )
    return None


def restore_step(
    step_dir: str | Path,
    abstract: Tree,
    accept: Callable[[Mapping[str, Any], str], None] | None = None,
) -> Restored:
    """Restores and verifies one checkpoint; `abstract` may be a part of what was saved. Collective.

    Raises:
      ValueError: if shapes, dtypes or names differ from what was saved.
      CorruptCheckpointError: if the files are unreadable or hold other numbers than were saved.
    """
    step_dir = Path(step_dir).absolute()  # Orbax takes no other
    meta = agreement.from_first(lambda: layout.read_meta(step_dir), CorruptCheckpointError)
    flat = layout.flatten(abstract)
    with agreement.together():
        if not step_dir.is_dir():
            raise ValueError(
                f"Process {jax.process_index()} does not find {step_dir}, which process 0 does: "
                f"MODEL_DIR must be one folder shared by all processes."
            )
        if accept is not None:
            accept(meta, str(step_dir))
        _check_fits(flat, meta["leaves"], step_dir)
    with agreement.together(CorruptCheckpointError):
        restored = _read(step_dir / layout.STATE, flat)
    found = fingerprints(restored)
    with agreement.together(CorruptCheckpointError):
        wrong = [path for path, value in found.items() if value != meta["leaves"][path][2]]
        if wrong:
            raise CorruptCheckpointError(
                f"{len(wrong)} arrays differ from what was saved, the first is {wrong[0]!r}"
            )
    return Restored(step=meta["step"], state=layout.unflatten(restored, abstract), meta=meta)


def _check_fits(flat: Mapping[str, Any], saved: Mapping[str, Any], step_dir: Path) -> None:
    """One sentence for the user; Orbax casts dtypes silently and reports names at length."""
    for path, wanted in layout.describe(flat).items():
        if path not in saved:
            raise ValueError(
                f"{step_dir} holds no array {path!r}. It was saved by another model or optimiser: "
                f"use the configuration it was trained with."
            )
        if saved[path][:2] != wanted:
            shapes = [f"{dtype}{shape}" for shape, dtype, *_ in (saved[path], wanted)]
            raise ValueError(
                f"{step_dir} holds {path!r} as {shapes[0]}, this configuration wants {shapes[1]}. "
                f"Use the model configuration it was trained with."
            )


def _read(path: Path, flat: Mapping[str, Any]) -> dict[str, jax.Array]:
    """Reads this process's part of the arrays into their shardings."""
    assert path.is_absolute(), path  # else Orbax's refusal would be taken for damage
    item = tree.unflatten(flat)
    args = ocp.args.PyTreeRestore(
        item=item,
        restore_args=ocp.checkpoint_utils.construct_restore_args(item),
        partial_restore=True,
    )
    quiet.repeated_errors()
    # Not through an `ocp.Checkpointer`: it ends with a barrier, where a process that can read would
    # wait for one that cannot.
    with contextlib.closing(ocp.PyTreeCheckpointHandler()) as handler:
        try:
            return layout.flatten(handler.restore(epath.Path(path), args=args))
        except ImportError:  # of what Orbax needs
            raise
        except Exception as error:
            layout.refuse_unreadable(path.parent)
            # Orbax and TensorStore raise many types for damaged files; whatever it was, the files
            # were not readable.
            raise CorruptCheckpointError(f"unreadable ({layout.sentence(error)})") from error


def _set_aside(step_dir: Path) -> str:
    """Renames `5` to `5.bad` (or `5.bad-2`, …) and returns that name. Collective."""

    def rename() -> str:
        suffixes = itertools.chain([""], (f"-{n}" for n in itertools.count(2)))
        names = (step_dir.with_name(f"{step_dir.name}.bad{suffix}") for suffix in suffixes)
        return step_dir.rename(next(name for name in names if not os.path.lexists(name))).name

    return agreement.from_first(rename)
