"""T5X's legacy checkpoint format, with NumPy alone: read and write.

    MODEL_DIR/checkpoint_<step>/
      checkpoint                     msgpack: {"version": 3, "optimizer": {"target", "state"}}
      target.encoder.….kernel/       one zarr array per leaf that is not in the msgpack file
      state.param_states.….v/

A leaf outside of the msgpack file is a TensorStore spec there (driver, kvstore, metadata) with a
path relative to the folder. Any leaf may be in either place. Reference: T5X `checkpoints.py` at
cc342d4 (2026-04-21).

    checkpoint = legacy.open_checkpoint("gs://…/checkpoint_1000000")
    checkpoint.shape("target/token_embedder/embedding"); checkpoint.read("state/step")
    legacy.write("runs/exported", step=20, leaves=leaves)
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ul2tune import tree
from ul2tune.convert.t5x import folders, msgpack_tree, zarr2
from ul2tune.convert.t5x.folders import Folder

VERSION = 3
FILE = "checkpoint"
DRIVERS = ("file", "gfile", "gcs")
_SPEC_KEYS = {"driver", "kvstore", "metadata"}
_FOLDER = re.compile(r"checkpoint_(\d+)")
Leaves = Iterable[tuple[str, np.ndarray]]


@dataclass(frozen=True, kw_only=True)
class Outside:
    """A leaf in a zarr array of its own."""

    folder: str
    header: zarr2.Header


@dataclass(frozen=True, kw_only=True)
class T5XCheckpoint:
    """An opened checkpoint; arrays outside of the msgpack file are read when asked for.

    Attributes:
      path: its folder.
      entries: leaves by name: ``target/…``, ``state/step``, ``state/param_states/…``.
    """

    path: str
    entries: Mapping[str, np.ndarray | Outside]

    @property
    def names(self) -> Collection[str]:
        return self.entries.keys()

    def shape(self, name: str) -> tuple[int, ...]:
        entry = self.entries[name]
        return entry.header.shape if isinstance(entry, Outside) else entry.shape

    def read(self, name: str) -> np.ndarray:
        """One leaf in its stored dtype.

        Raises:
          ValueError: for missing, truncated or damaged files.
        """
        entry = self.entries[name]
        if isinstance(entry, Outside):
            # TensorStore of 2021 may have left out zeros, which moments can be and weights not.
            whole = name.startswith("target/")
            return zarr2.read(folders.open_folder(self.path), entry.folder, whole=whole)
        return entry


def find(path: str) -> str:
    """The checkpoint folder that `path` means: itself, its msgpack file, or the newest one of a
    MODEL_DIR, local or remote.

    Raises:
      ValueError: if there is none.
    """
    folder = folders.open_folder(path)
    names = folder.names()
    if FILE in names or is_orbax(path):
        return folder.path
    if steps := [int(found[1]) for found in map(_FOLDER.fullmatch, names) if found]:
        return f"{folder.path}/checkpoint_{max(steps)}"
    head, tail = folders.parent(path)
    if not names and folders.open_folder(head).read(tail) is not None:
        return folders.open_folder(head).path
    raise ValueError(
        f"{str(path)!r} is no T5X checkpoint: expected a folder checkpoint_<step> (with the file "
        f"{FILE!r} or Orbax's 'state'), or a MODEL_DIR that holds such folders."
    )


def is_orbax(path: str) -> bool:
    """Whether the folder holds a checkpoint in T5X's Orbax form."""
    return folders.open_folder(f"{path}/state").read("_METADATA") is not None


def open_checkpoint(path: str) -> T5XCheckpoint:
    """Opens a checkpoint in the legacy format and checks all its headers; reads no arrays.

    Args:
      path: as in :func:`find`.

    Raises:
      ValueError: if it is none, damaged, hostile, or of a version that T5X does not read either.
    """
    folder = folders.open_folder(find(path))
    name = FILE if FILE in folder.names() else folders.parent(path)[1]
    where, data = f"{folder.path}/{name}", folder.read(name)
    if data is None:
        raise ValueError(f"{where} does not exist.")
    if data.startswith(b"model_checkpoint_path"):
        raise ValueError(f"{where} is TensorFlow's: convert it with T5X's convert_tf_checkpoint.")
    optimizer = _optimizer(msgpack_tree.loads(data, where), where)
    return T5XCheckpoint(path=folder.path, entries=dict(_entries(folder, optimizer, "")))


def _optimizer(content: Mapping[str, Any], where: str) -> Mapping[str, Any]:
    version = content.get("version", 0)
    if version != VERSION:
        raise ValueError(
            f"{where} has version {version!r} of T5X's format; this reads version {VERSION}, "
            f"written since June 2021. "
            + {
                0: "It may be a plain Flax checkpoint.",
                1: "T5X itself no longer reads version 1.",
                2: "Version 2 stores bfloat16 as uint16: restore and save it with a T5X of 2021.",
            }.get(version if type(version) is int else -1, "It may be newer than this program.")
        )
    optimizer = content.get("optimizer")
    if not isinstance(optimizer, dict) or not isinstance(optimizer.get("target"), dict):
        raise ValueError(f"{where} has no tree 'optimizer/target'; it holds {sorted(content)}.")
    return optimizer


def _entries(folder: Folder, node: Mapping[str, Any], prefix: str):
    for key, value in node.items():
        name = f"{prefix}{key}"
        if isinstance(value, dict) and value.keys() >= _SPEC_KEYS:
            yield name, _outside(folder, name, value)
        elif isinstance(value, dict):
            yield from _entries(folder, value, f"{name}{tree.SEPARATOR}")
        elif value is not None:  # None: a parameter that no optimiser of a MultiOptimizer touches
            yield name, np.asarray(value)


def _outside(folder: Folder, name: str, spec: Mapping[str, Any]) -> Outside:
    kvstore, where = spec["kvstore"], f"{folder.path}/{FILE}: {name}"
    driver = kvstore.get("driver") if isinstance(kvstore, dict) else None
    if spec["driver"] != "zarr" or driver not in DRIVERS:
        raise ValueError(
            f"{where} is stored with the drivers {spec['driver']!r} and {driver or kvstore!r}; T5X "
            f"uses 'zarr' and one of {', '.join(DRIVERS)}."
        )
    # TensorStore before 0.1.14 kept the path outside of `kvstore`. The bucket is a dummy.
    path = kvstore.get("path", spec.get("path"))
    if not isinstance(path, str):
        raise ValueError(f"{where} has no path.")
    path = folders.inside(path, where)
    header = zarr2.read_header(folder, path)
    claimed = spec["metadata"].get("shape") if isinstance(spec["metadata"], dict) else None
    if claimed is not None and tuple(claimed) != header.shape:
        raise ValueError(
            f"{where} has shape {tuple(claimed)}, but {path}/{zarr2.METADATA} says {header.shape}. "
            f"The checkpoint is a mixture of two, or damaged."
        )
    return Outside(folder=path, header=header)


def is_outside(name: str, array: np.ndarray) -> bool:
    """T5X's rule: parameters, and moments of full size, are zarr arrays of their own."""
    moment = name.rpartition(tree.SEPARATOR)[2]
    return name.startswith("target/") or (moment in ("v", "m") and array.shape != (1,))


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Sizes at which values are split; smaller ones are for tests.

    Attributes:
      array_bytes: of one chunk file.
      msgpack_bytes: of an array inside the msgpack file.
    """

    array_bytes: int = zarr2.CHUNK_BYTES
    msgpack_bytes: int = msgpack_tree.MAX_CHUNK_BYTES


def write(
    model_dir: str,
    step: int,
    leaves: Leaves,
    outside: Callable[[str, np.ndarray], bool] = is_outside,
    limits: Limits | None = None,
) -> str:
    """Writes ``model_dir/checkpoint_<step>``, at first under a temporary name; T5X restores it.

    Args:
      model_dir: local or remote; created if needed.
      step: names the folder, and is stored as ``state/step``.
      leaves: pairs of name (``target/…``, ``state/param_states/…``) and array; taken one by one, so
        that a generator needs the memory of one.
      outside: which leaves become zarr arrays.
      limits: see :class:`Limits`.

    Returns:
      The folder.

    Raises:
      ValueError: if it exists already, or a leaf comes twice.
    """
    limits = limits or Limits()
    parent, name = folders.open_folder(model_dir), f"checkpoint_{step}"
    if name in parent.names():
        raise ValueError(
            f"{parent.path}/{name} exists already; remove it or write elsewhere. It was not "
            f"touched."
        )
    temporary = folders.temporary_name(name)
    folder = folders.open_folder(f"{parent.path}/{temporary}")
    content: dict[str, Any] = {"state/step": np.asarray(step, np.int32)}
    try:
        for leaf, array in leaves:
            if leaf in content:
                raise ValueError(f"The leaf {leaf!r} was given twice.")
            array = np.asarray(array)
            content[leaf] = array
            if outside(leaf, array):
                target = leaf.replace(tree.SEPARATOR, ".")
                zarr2.write(folder, target, array, limits.array_bytes)
                content[leaf] = {
                    "driver": "zarr",
                    "dtype": array.dtype.name,
                    "kvstore": {"driver": "file", "path": f"{target}/"},
                    "metadata": zarr2.spec(array, limits.array_bytes),
                }
        packed = {"version": VERSION, "optimizer": tree.unflatten(dict(sorted(content.items())))}
        folder.write(FILE, msgpack_tree.dumps(packed, limits.msgpack_bytes))
        parent.move(temporary, name, last=FILE)
    except BaseException:
        parent.remove(temporary)
        raise
    return f"{parent.path}/{name}"


def cast(leaves: Leaves, dtype: str) -> Leaves:
    """Casts the parameters, as `SaveCheckpointConfig.dtype`; the optimiser's state stays."""
    kind = folders.dtype(dtype)
    for name, array in leaves:
        yield name, array.astype(kind) if name.startswith("target/") else array
