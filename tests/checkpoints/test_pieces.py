"""Arrays of checkpoints, read layer by layer."""

from __future__ import annotations

import itertools
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tensorstore as ts
from jax.sharding import NamedSharding, PartitionSpec

from tests.checkpoints import test_streaming as streamed
from ul2tune import sharding
from ul2tune.checkpoints import layout, manager
from ul2tune.checkpoints.manager import CheckpointManager
from ul2tune.checkpoints.pieces import StoredArray
from ul2tune.checkpoints.restore import CorruptCheckpointError

STACK = np.random.default_rng(1).standard_normal((4, 6, 8)).astype(np.float32)


def saved(folder: Path) -> Path:
    """A checkpoint as a run writes it, on a mesh."""
    mesh = sharding.make_mesh(sharding.MeshConfig(fsdp=2, tensor=4))
    state = {
        "stack": jax.device_put(STACK, NamedSharding(mesh, PartitionSpec(None, "fsdp", "tensor"))),
        "half": jnp.asarray(STACK, jnp.bfloat16),
        "scalar": jnp.float32(3),
    }
    checkpoints = CheckpointManager(folder, keep_last=1)
    checkpoints.save(5, {"params": state}, {})
    checkpoints.close()
    return folder / "5"


@pytest.mark.parametrize("chunk_bytes", [1, 2**26])
def test_runs_write_what_is_read_layer_by_layer(tmp_path: Path, monkeypatch, chunk_bytes: int):
    monkeypatch.setattr(manager, "CHUNK_BYTES", chunk_bytes)
    step_dir = saved(tmp_path)
    for name in ("stack", "half"):
        array = StoredArray(step_dir, f"params/{name}")
        chunks = array._store.chunk_layout.read_chunk.shape
        assert chunks is not None
        assert (array.shape, chunks[0]) == (
            (4, 6, 8),
            1 if chunk_bytes == 1 else 4,
        )
        expected = STACK.astype(array.dtype)
        np.testing.assert_array_equal(np.asarray(array), expected)
        for layer, wanted in itertools.zip_longest(array, expected):
            np.testing.assert_array_equal(layer, wanted)
    assert np.asarray(StoredArray(step_dir, "params/scalar")) == 3


def test_imports_write_what_is_read_layer_by_layer(tmp_path: Path):
    streamed.write(tmp_path / "1")
    for path, expected in streamed.ARRAYS.items():
        array = StoredArray(tmp_path / "1", path)
        np.testing.assert_array_equal(np.asarray(array), expected)
        np.testing.assert_array_equal(np.stack(list(array)), expected)


def test_damage_is_noticed_before_the_last_layer(tmp_path: Path):
    step_dir, path = tmp_path / "1", "params/layers/kernel"
    streamed.write(step_dir)
    folder = step_dir / layout.STATE / "params.layers.kernel"
    spec = {"driver": "zarr", "kvstore": {"driver": "file", "path": str(folder)}}
    ts.open(spec, open=True).result()[0, 1, 2].write(np.float32(9)).result()
    layers = iter(StoredArray(step_dir, path))
    first = list(itertools.islice(layers, 2))
    np.testing.assert_array_equal(first[1], streamed.ARRAYS[path][1])
    with pytest.raises(CorruptCheckpointError, match=r"layers/kernel'.*other numbers"):
        next(layers)
    with pytest.raises(CorruptCheckpointError, match="other numbers"):
        np.asarray(StoredArray(step_dir, path))
    next(folder.glob("1.*")).write_bytes(b"torn")
    with pytest.raises(CorruptCheckpointError, match="is damaged at 'params/layers/kernel'"):
        list(StoredArray(step_dir, path))
    (folder / ".zarray").unlink()
    with pytest.raises(CorruptCheckpointError, match="is damaged at"):
        StoredArray(step_dir, path)
    with pytest.raises(ValueError, match="holds no array 'params/other'"):
        StoredArray(step_dir, "params/other")
