"""Writing a checkpoint piece by piece: what is converted need never be in memory as a whole.

Orbax's own way to save wants all arrays at once, and copies them. What it reads is simple: zarr
arrays, one folder each, and a list of them. So this writes one array after the other, a few
megabytes at a time, and the same fingerprints beside them that :mod:`ul2tune.checkpoints.manager`
writes. Everything else about the checkpoint is as always.

    step = StepWriter(model_dir / "checkpoints" / "0")
    array = step.array("params/encoder/layers/mlp/wo", (12, 2048, 768))
    for layer in layers:
        array.append(layer)
    step.finish({"config": …})
"""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorstore as ts

from ul2tune import tree
from ul2tune.checkpoints import layout
from ul2tune.checkpoints.fingerprint import HostFingerprint

CHUNK_BYTES = 16 * 2**20


class ArrayWriter:
    """One array, written front to back along its leading axis or axes."""

    def __init__(self, folder: Path, shape: Sequence[int], dtype: np.dtype):
        self._folder, self.shape, self.dtype = folder, tuple(shape), dtype
        self.chunks = _chunks(self.shape, dtype.itemsize)
        self._store = ts.open(
            {
                "driver": "zarr",
                "kvstore": {"driver": "file", "path": str(folder)},
                "metadata": {
                    "shape": list(self.shape),
                    "chunks": list(self.chunks),
                    "dtype": dtype.str,
                    "compressor": {"id": "zstd", "level": 1},
                },
                "context": {"cache_pool": {"total_bytes_limit": 0}},
                "create": True,
                "store_data_equal_to_fill_value": True,
            }
        ).result()
        self._fingerprint = HostFingerprint()

    def append(self, value: np.ndarray) -> None:
        """Writes the next entries: [n, ...] of the array's own rank, or one without that axis.

        `value` may be a view of any strides and dtype that converts exactly.
        """
        rank = len(self.shape)
        value = value[None] if value.ndim == rank - 1 else value
        assert value.ndim == rank, (value.shape, self.shape)
        if rank == 0:
            self._put((), value)
            return
        begin = self._fingerprint.count // math.prod(self.shape[1:])
        assert value.shape[1:] == self.shape[1:], (value.shape, self.shape)
        assert begin + len(value) <= self.shape[0], (begin, value.shape, self.shape)
        for first in range(0, len(value), self.chunks[0]):
            part = value[first : first + self.chunks[0]]
            outer = slice(begin + first, begin + first + len(part))
            if rank == 1:
                self._put((outer,), part)
                continue
            for second in range(0, self.shape[1], self.chunks[1]):
                inner = slice(second, min(second + self.chunks[1], self.shape[1]))
                self._put((outer, inner), part[:, inner])

    def _put(self, where: tuple[slice, ...], value: np.ndarray) -> None:
        value = np.ascontiguousarray(value, self.dtype).reshape(value.shape)
        self._fingerprint.update(value)
        try:
            self._store[where].write(value).result()
        except ValueError as error:
            if (number := _system_error(error)) is None:
                raise
            raise OSError(number, os.strerror(number), str(self._folder)) from error

    def description(self) -> list[Any]:
        """Shape, dtype and fingerprint, as in the metadata of a checkpoint."""
        assert self._fingerprint.count == math.prod(self.shape), "not all of it was written"
        return [list(self.shape), str(self.dtype), self._fingerprint.value]


def _system_error(error: ValueError) -> int | None:
    """The number of the operating system's error (a full disk) behind one of TensorStore's."""
    found = re.search(r"os_error_code='(\d+)'", str(error))
    return None if found is None else int(found[1])


def _chunks(shape: tuple[int, ...], itemsize: int) -> tuple[int, ...]:
    """At most :data:`CHUNK_BYTES`, or one row: rows of a matrix, or of one layer of a stack."""
    if len(shape) < 2:
        return shape
    layers = (1,) if len(shape) > 2 else ()
    rows, *rest = shape[len(layers) :]
    fitting = CHUNK_BYTES // max(1, math.prod(rest) * itemsize)
    return (*layers, max(1, min(rows, fitting)), *rest)


class StepWriter:
    """One checkpoint in the making; nobody takes the folder for one before :meth:`finish`."""

    def __init__(self, step_dir: str | Path):
        """Makes the folder.

        Args:
          step_dir: ``…/checkpoints/<step>``, which must not exist.
        """
        self.step_dir = Path(step_dir)
        (self.step_dir / layout.STATE).mkdir(parents=True)
        self._arrays: dict[str, ArrayWriter] = {}

    def array(self, path: str, shape: Sequence[int], dtype: Any = np.float32) -> ArrayWriter:
        """Starts the array `path` ("params/…"); it may stay unfinished while others are begun."""
        assert path not in self._arrays, path
        folder = self.step_dir / layout.STATE / ".".join(path.split(tree.SEPARATOR))
        self._arrays[path] = ArrayWriter(folder, shape, np.dtype(dtype))
        return self._arrays[path]

    def finish(self, meta: Mapping[str, Any]) -> None:
        """Writes the lists that make a checkpoint of it.

        Args:
          meta: JSON values to keep beside the arrays, such as ``{"config": {"model": …}}``.
        """
        step = int(self.step_dir.name)
        self.array("step", (), np.int32).append(np.asarray(step, np.int32))
        leaves = {path: array.description() for path, array in sorted(self._arrays.items())}
        arrays = {
            str(tuple(keys)): {
                "key_metadata": [{"key": key, "key_type": 2} for key in keys],
                "value_metadata": {"value_type": "jax.Array", "skip_deserialize": False},
            }
            for keys in (path.split(tree.SEPARATOR) for path in leaves)
        }
        index = {
            "tree_metadata": arrays,
            "use_ocdbt": False,
            "use_zarr3": False,
            "store_array_data_equal_to_fill_value": True,
            "custom_metadata": None,
        }
        (self.step_dir / layout.STATE / "_METADATA").write_text(json.dumps(index), "utf-8")
        sealed = layout.seal(
            {**meta, "format_version": layout.FORMAT_VERSION, "step": step, "leaves": leaves}
        )
        folder = self.step_dir / layout.META
        folder.mkdir()
        (folder / "metadata").write_text(json.dumps(sealed), encoding="utf-8")
