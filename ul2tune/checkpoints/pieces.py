"""One array of a checkpoint, a layer at a time: the counterpart of `streaming.ArrayWriter`.

Orbax restores whole arrays, and a stack of all layers of a large model is tens of gigabytes. This
reads the same zarr arrays with TensorStore, front to back, and verifies the fingerprint on the way.

    array = StoredArray(step_dir, "params/encoder/layers/mlp/wo")
    for layer in array: …          # [D, F], one after the other
    np.asarray(array)              # or all of it
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import tensorstore as ts

from ul2tune import tree
from ul2tune.checkpoints import layout
from ul2tune.checkpoints.fingerprint import HostFingerprint


class StoredArray:
    """An array of a checkpoint on this machine's disk, not yet read.

    It can be iterated over like the NumPy array that `numpy.asarray` makes of it, at the cost of
    one entry of the leading axis (or of one chunk of the file, where that holds several).

    Attributes:
      path: "params/…", "ema/…", "step", ….
      shape: its sizes.
      dtype: as stored.
    """

    def __init__(self, step_dir: str | Path, path: str):
        """Opens the array; reads none of it.

        Raises:
          ValueError: if the checkpoint holds no such array.
          CorruptCheckpointError: if its metadata or the array's is damaged.
        """
        leaves = layout.read_meta(step_dir)["leaves"]
        if path not in leaves:
            raise ValueError(f"{step_dir} holds no array {path!r}.")
        shape, dtype, self._fingerprint = leaves[path]
        self.path, self.shape, self.dtype = path, tuple(shape), np.dtype(dtype)
        self._step_dir = Path(step_dir).resolve()
        self._store = self._open()
        if self._store.shape != self.shape or self._store.dtype.numpy_dtype != self.dtype:
            raise self._damaged(f"it is {self._store.dtype.name}{list(self._store.shape)} on disk")

    def _open(self) -> ts.TensorStore:
        folder = self._step_dir / layout.STATE
        name = ".".join(self.path.split(tree.SEPARATOR))
        try:
            index = json.loads((folder / "_METADATA").read_text("utf-8"))
            assert not index["use_zarr3"], "we never write it"
            kvstore: Mapping[str, Any]
            if index["use_ocdbt"]:
                base = {"driver": "file", "path": f"{folder}/"}
                kvstore = {"driver": "ocdbt", "base": base, "path": f"{name}/"}
            else:
                kvstore = {"driver": "file", "path": str(folder / name)}
            spec = {
                "driver": "zarr",
                "kvstore": kvstore,
                "context": {"cache_pool": {"total_bytes_limit": 0}},
            }
            return ts.open(spec, open=True, read=True).result()
        except (OSError, ValueError, KeyError) as error:
            layout.refuse_unreadable(self._step_dir)
            raise self._damaged(layout.sentence(error)) from error

    def __iter__(self) -> Iterator[np.ndarray]:
        """The entries along the leading axis, in order; the last comes after all are verified.

        Raises:
          CorruptCheckpointError: if the files are damaged.
        """
        assert self.shape, "a scalar has no entries"
        step = (self._store.chunk_layout.read_chunk.shape or (1,))[0] or 1
        found = HostFingerprint()
        for begin in range(0, self.shape[0], step):
            entries = self._read(slice(begin, begin + step))
            found.update(entries)
            if begin + step >= self.shape[0]:
                self._verify(found)
            yield from entries

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        del copy  # it always is
        value = self._read(...)
        found = HostFingerprint()
        found.update(value)
        self._verify(found)
        return value if dtype is None else value.astype(dtype, copy=False)

    def _read(self, where: Any) -> np.ndarray:
        if isinstance(where, slice):
            where = slice(where.start, min(where.stop, self.shape[0]))
        try:
            return self._store[where].read().result()
        except (OSError, ValueError) as error:
            layout.refuse_unreadable(self._step_dir)
            raise self._damaged(layout.sentence(error)) from error

    def _verify(self, found: HostFingerprint) -> None:
        if found.value != self._fingerprint:
            raise self._damaged("it holds other numbers than were saved")

    def _damaged(self, reason: str) -> layout.CorruptCheckpointError:
        return layout.CorruptCheckpointError(
            f"The checkpoint {self._step_dir} is damaged at {self.path!r}: {reason}."
        )
