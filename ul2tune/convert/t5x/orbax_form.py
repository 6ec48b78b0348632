"""T5X's Orbax form: the same tree of leaves under ``checkpoint_<step>/state``, written by Orbax.

Orbax finds remote folders (``gs://``) by itself.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from etils import epath

from ul2tune import tree
from ul2tune.convert.t5x import folders, zarr2
from ul2tune.convert.t5x.legacy import Leaves

ITEM = "state"
# Leaves up to this size are read together and kept.
SMALL_BYTES = 2**20


@dataclass(frozen=True, kw_only=True)
class OrbaxCheckpoint:
    """An opened checkpoint.

    Attributes:
      path: its folder.
      shapes: shape and dtype of every leaf by name: ``target/…``, ``state/step``, ….
    """

    path: str
    shapes: Mapping[str, jax.ShapeDtypeStruct]
    _small: dict[str, np.ndarray] = field(default_factory=dict, repr=False)

    @property
    def names(self) -> Collection[str]:
        return self.shapes.keys()

    def shape(self, name: str) -> tuple[int, ...]:
        return tuple(self.shapes[name].shape)

    def read(self, name: str) -> np.ndarray:
        """One leaf in its stored dtype.

        Raises:
          ValueError: for missing or damaged files.
        """
        if self._size(name) > SMALL_BYTES:
            return self._restore([name])[name]
        if not self._small:  # one by one they would take a tenth of a second each
            names = [other for other in self.names if self._size(other) <= SMALL_BYTES]
            self._small.update(self._restore(names))
        return self._small[name]

    def _size(self, name: str) -> int:
        return math.prod(self.shape(name)) * self.shapes[name].dtype.itemsize

    def _restore(self, names: Collection[str]) -> dict[str, np.ndarray]:
        item = tree.unflatten({name: self.shapes[name] for name in names})
        restore = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), item)
        args = ocp.args.PyTreeRestore(item=item, restore_args=restore, partial_restore=True)
        with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as checkpointer:
            try:
                restored = checkpointer.restore(f"{self.path}/{ITEM}", args=args)
            except Exception as error:  # Orbax and TensorStore raise many types for damaged files
                raise _unreadable(self.path, error) from error
        return {name: np.asarray(leaf) for name, leaf in tree.flatten(restored).items()}


def open_checkpoint(path: str) -> OrbaxCheckpoint:
    """Opens ``path/state``; reads no arrays.

    Raises:
      ValueError: if it is damaged, or its arrays are absurd.
    """
    # The handler itself: a Checkpointer warns of a file that T5X keeps one folder higher, and of
    # damage instead of raising it.
    with contextlib.closing(ocp.PyTreeCheckpointHandler()) as handler:
        try:
            metadata: Any = handler.metadata(epath.Path(path) / ITEM)
            flat = tree.flatten(getattr(metadata, "tree", metadata))
        except Exception as error:
            raise _unreadable(path, error) from error
    shapes = {}
    for name, leaf in flat.items():
        if leaf is None or not hasattr(leaf, "shape"):
            continue
        shape, dtype = tuple(leaf.shape), folders.dtype(str(leaf.dtype))
        if math.prod(shape) * dtype.itemsize > zarr2.MAX_BYTES:
            raise ValueError(f"{path}: {name!r} claims the shape {shape}, which is absurd.")
        shapes[name] = jax.ShapeDtypeStruct(shape, dtype)
    return OrbaxCheckpoint(path=path, shapes=shapes)


def write(model_dir: str, step: int, leaves: Leaves) -> str:
    """Writes ``model_dir/checkpoint_<step>`` as T5X's Orbax manager does; T5X restores it.

    Args:
      model_dir: created if needed.
      step: names the folder, and is stored as ``state/step``.
      leaves: pairs of name and array; all of them are held in memory, as Orbax wants them at once.

    Returns:
      The folder.

    Raises:
      ValueError: if it exists already.
    """
    parent, name = folders.open_folder(model_dir), f"checkpoint_{step}"
    if name in parent.names():
        raise ValueError(
            f"{parent.path}/{name} exists already; remove it or write elsewhere. It was not "
            f"touched."
        )
    state: dict[str, Any] = {"state/step": np.asarray(step, np.int32), **dict(leaves)}
    args = ocp.args.Composite(**{ITEM: ocp.args.PyTreeSave(tree.unflatten(state))})
    with ocp.Checkpointer(ocp.CompositeCheckpointHandler()) as checkpointer:
        checkpointer.save(f"{parent.path}/{name}", args=args)
    return f"{parent.path}/{name}"


def _unreadable(path: str, error: BaseException) -> ValueError:
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return ValueError(f"{path} cannot be read by Orbax: {lines[0][:300]}")
