"""Writing checkpoints: Orbax's manager (asynchronous, atomic) behind a class of four methods."""

from __future__ import annotations

import contextlib
import logging
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp
from orbax.checkpoint import checkpoint_managers as policies

from ul2tune import tree
from ul2tune.checkpoints import layout, quiet
from ul2tune.checkpoints.fingerprint import fingerprints
from ul2tune.first_names import first_names
from ul2tune.types import Tree

# Larger arrays are stored in pieces: stacks layer by layer, and what is still larger in pieces of
# this size. Reading one layer after the other (`pieces`) then takes the memory of one.
CHUNK_BYTES = 64 * 2**20

log = logging.getLogger(__name__)


class CheckpointWriteError(OSError):
    """A checkpoint could not be written (full disk, lost permission). Older ones are untouched."""


class CheckpointManager:
    """Saves states under ``directory/<step>`` and deletes what the retention rules no longer keep.

    Writing happens in the background: an error of one save is raised by the next call of any
    method.
    """

    def __init__(
        self, directory: str | Path, *, keep_last: int, keep_period_steps: int | None = None
    ):
        """Opens `directory`, creating it if needed and removing unfinished writes of killed runs.

        Args:
          directory: the folder of step folders.
          keep_last: number of newest checkpoints to keep (at least 1).
          keep_period_steps: also keep every checkpoint whose step is a multiple of this, as long as
            all later starts say so too. What these rules do not keep is warned of.

        Raises:
          ValueError: if `keep_last` is below 1.
        """
        if keep_last < 1:
            raise ValueError(
                f"keep_checkpoints = {keep_last}: at least one checkpoint must be kept."
            )
        keep: list[Any] = [policies.LatestN(keep_last)]
        if keep_period_steps is not None:
            keep.append(policies.EveryNSteps(keep_period_steps))
        self._directory = Path(directory).absolute()
        self._saving: int | None = None  # the newest that was begun
        if jax.process_index() == 0:
            self._warn_of_losses(keep_last, keep_period_steps)
        quiet.repeated_errors()
        with self._write_errors("open"):
            self._manager = ocp.CheckpointManager(
                self._directory,
                options=ocp.CheckpointManagerOptions(
                    preservation_policy=policies.AnyPreservationPolicy(keep),
                    cleanup_tmp_directories=True,
                ),
            )

    def save(self, step: int, state: Tree, meta: Mapping[str, Any]) -> None:
        """Starts saving; returns when the arrays are copied to the host, so that they may be
        donated. Collective.

        Args:
          step: names the checkpoint.
          state: pytree of arrays.
          meta: JSON values to keep beside it.

        Raises:
          CheckpointWriteError: if this or an earlier save failed.
        """
        flat = layout.flatten(state)
        prints = fingerprints(flat)
        leaves = {path: [*d, prints[path]] for path, d in layout.describe(flat).items()}
        sealed = layout.seal(
            {**meta, "format_version": layout.FORMAT_VERSION, "step": step, "leaves": leaves}
        )
        args = ocp.args.Composite(
            **{
                layout.STATE: ocp.args.StandardSave(
                    tree.unflatten(flat),
                    tree.unflatten({path: _cut(leaf) for path, leaf in flat.items()}),
                ),
                layout.META: ocp.args.JsonSave(sealed),
            }
        )
        self.wait()  # Orbax does so too, but what fails here is the earlier save
        self._saving = step
        with self._write_errors(f"save step {step}"):
            saved = self._manager.save(step, args=args, force=True)
        assert saved, f"Orbax skipped step {step}"

    def check(self) -> None:
        """Raises the error of a finished background save, if there is one; never blocks."""
        with self._write_errors(f"save step {self._saving}"):
            self._manager.check_for_errors()

    def wait(self) -> None:
        """Blocks until everything is on disk; raises as :meth:`save`."""
        with self._write_errors(f"save step {self._saving}"):
            self._manager.wait_until_finished()

    def close(self) -> None:
        """Releases threads; does not hide an error of the last save."""
        self.wait()
        self._manager.close()

    def _warn_of_losses(self, keep_last: int, keep_period_steps: int | None) -> None:
        """Rules hold for all that is there: what an earlier start kept is not kept by itself."""
        older = layout.steps(self._directory)[:-keep_last]
        lost = [step for step in older if not keep_period_steps or step % keep_period_steps]
        if lost:
            log.warning(
                "The next save deletes checkpoints that an earlier start kept: %s in %s, as now "
                "keep_checkpoints = %d and keep_checkpoint_period_steps = %s. To keep them, stop "
                "and set these as they were, or move the folders away.",
                first_names(lost),
                self._directory,
                keep_last,
                keep_period_steps,
            )

    @contextlib.contextmanager
    def _write_errors(self, what: str) -> Iterator[None]:
        try:
            yield
        except (OSError, ValueError, RuntimeError) as error:
            raise CheckpointWriteError(
                f"Could not {what} in {self._directory}: {_reason(error)}. "
                f"{layout.after_a_failed_write(self._directory)}"
            ) from error


def _cut(leaf: jax.Array) -> ocp.SaveArgs:
    """How an array is cut into chunks; each lies within a shard."""
    if math.prod(leaf.shape) * leaf.dtype.itemsize <= CHUNK_BYTES:
        return ocp.SaveArgs()
    stacked = (0,) if leaf.ndim > 2 else ()
    return ocp.SaveArgs(chunk_byte_size=max(CHUNK_BYTES, leaf.dtype.itemsize), shard_axes=stacked)


def _reason(error: BaseException) -> str:
    """Why; which of the checkpoint's files it was that could not be written says nothing."""
    known = ("No space left on device", "File too large", "Permission denied")
    return next((reason for reason in known if reason in str(error)), layout.sentence(error))
