"""Checkpoints written piece by piece are checkpoints like any other."""

from __future__ import annotations

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from ul2tune import sharding
from ul2tune.checkpoints import initialize, layout, streaming
from ul2tune.checkpoints.fingerprint import HostFingerprint, fingerprint
from ul2tune.checkpoints.restore import CorruptCheckpointError, restore_step
from ul2tune.checkpoints.streaming import StepWriter

RNG = np.random.default_rng(0)
ARRAYS = {
    "params/layers/kernel": RNG.standard_normal((3, 10, 4)).astype(np.float32),
    "params/layers/heads": RNG.standard_normal((3, 4, 2, 5)).astype(np.float32),
    "params/embedding": RNG.standard_normal((22, 4)).astype(np.float32),
    "params/norm": RNG.standard_normal(7).astype(np.float32),
}
SHAPES = {path: x.shape for path, x in ARRAYS.items()}


def write(step_dir: Path) -> None:
    writer = StepWriter(step_dir)
    for path, x in ARRAYS.items():
        array = writer.array(path, x.shape)
        if x.ndim > 2:
            for layer in x:
                array.append(np.asfortranarray(layer))
        else:
            array.append(x[:5])
            array.append(x[5:])
    writer.finish({"config": {"model": {"class": "Toy"}}})


def abstract(path: str, spec: PartitionSpec | None = None) -> jax.ShapeDtypeStruct:
    mesh = sharding.make_mesh(sharding.MeshConfig(fsdp=2, tensor=4))
    return jax.ShapeDtypeStruct(
        SHAPES[path], jnp.float32, sharding=NamedSharding(mesh, spec or PartitionSpec())
    )


@pytest.mark.parametrize("chunk_bytes", [1, 50, 2**24])
def test_is_restored_onto_a_mesh(tmp_path: Path, monkeypatch, chunk_bytes: int):
    monkeypatch.setattr(streaming, "CHUNK_BYTES", chunk_bytes)
    write(tmp_path / layout.SUBDIRECTORY / "7")
    specs = {
        "kernel": PartitionSpec(None, "fsdp", "tensor"),
        "heads": PartitionSpec(None, None, "fsdp", None),
    }
    wanted = {
        "layers": {name: abstract(f"params/layers/{name}", spec) for name, spec in specs.items()},
        "embedding": abstract("params/embedding", PartitionSpec("fsdp", "tensor")),
        "norm": abstract("params/norm"),
    }
    params = initialize.load_params(tmp_path, wanted)
    assert params["layers"]["kernel"].sharding == wanted["layers"]["kernel"].sharding
    for path, leaf in layout.flatten({"params": params}).items():
        np.testing.assert_array_equal(np.asarray(leaf), ARRAYS[path])
    step = jax.ShapeDtypeStruct((), jnp.int32, sharding=wanted["norm"].sharding)
    restored = restore_step(initialize.resolve(tmp_path), {"step": step})
    assert restored.step == restored.state["step"] == 7
    assert initialize.from_checkpoint(str(tmp_path)).first_step == 7


def test_damage_is_noticed(tmp_path: Path):
    step_dir = tmp_path / "1"
    write(step_dir)
    chunk = step_dir / layout.STATE / "params.norm" / "0"
    (step_dir / layout.STATE / "params.norm" / ".zarray").stat()
    chunk.write_bytes((step_dir / layout.STATE / "params.embedding" / "0.0").read_bytes())
    with pytest.raises(CorruptCheckpointError):
        restore_step(step_dir, {"params": {"norm": abstract("params/norm")}})


def test_an_unfinished_one_is_no_checkpoint(tmp_path: Path):
    StepWriter(tmp_path / "1").array("params/norm", (7,)).append(ARRAYS["params/norm"])
    with pytest.raises(CorruptCheckpointError):
        layout.read_meta(tmp_path / "1")


def test_an_array_must_be_written_whole(tmp_path: Path):
    writer = StepWriter(tmp_path / "1")
    writer.array("params/norm", (7,)).append(ARRAYS["params/norm"][:6])
    with pytest.raises(AssertionError, match="not all of it"):
        writer.finish({})


@pytest.mark.parametrize("dtype", [np.float32, np.float16, np.uint8, np.int32])
def test_fingerprint_in_pieces_is_that_of_the_whole(monkeypatch, dtype):
    monkeypatch.setattr(HostFingerprint, "_SHORT", 100)
    monkeypatch.setattr(HostFingerprint, "_LENGTH", 1000)
    x = RNG.integers(0, 255, 4321).astype(dtype)
    pieces = HostFingerprint()
    for begin, end in ((0, 1), (1, 1700), (1700, 4321)):
        pieces.update(x[begin:end])
    assert pieces.count == x.size
    assert pieces.value == int(fingerprint(jnp.asarray(x)))


@pytest.mark.parametrize(
    ("said", "kind", "number"),
    [("Failed to write 7 bytes [os_error_code='28']", OSError, 28), ("what?", ValueError, None)],
)
def test_a_full_disk_is_the_system_s_error(tmp_path, monkeypatch, said, kind, number):
    array = StepWriter(tmp_path / "5").array("params/norm", (7,))

    class Full:
        def __getitem__(self, _):
            raise ValueError(said)

    monkeypatch.setattr(array, "_store", Full())
    with pytest.raises(kind) as caught:
        array.append(ARRAYS["params/norm"])
    assert getattr(caught.value, "errno", None) == number
    assert caught.value.__cause__ is not caught.value  # who looks for the first cause finds an end
    if number is not None:
        assert caught.value.filename == str(tmp_path / "5/state/params.norm")
