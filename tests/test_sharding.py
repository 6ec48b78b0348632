"""Meshes, the rules table, and which process holds which rows."""

from __future__ import annotations

import dataclasses

import jax
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from ul2tune import sharding
from ul2tune.cli import gin_config
from ul2tune.cli.prepared import prepare_missing
from ul2tune.sharding import MeshConfig
from ul2tune.training.run import train

# What each preset makes of eight devices.
PRESETS = {
    "single": {"data": 1, "fsdp": 1, "tensor": 1},
    "fsdp": {"data": 1, "fsdp": 8, "tensor": 1},
    "tensor": {"data": 1, "fsdp": 1, "tensor": 8},
    "fsdp_tensor": {"data": 1, "fsdp": 4, "tensor": 2},
    "data_fsdp_tensor": {"data": 2, "fsdp": 2, "tensor": 2},
}


@pytest.mark.parametrize("preset", PRESETS)
def test_presets(preset):
    files = ["recipes/demo_pretrain.gin", f"mesh/{preset}.gin"]
    config = gin_config.load(files, [], roots=(prepare_missing, train)).arguments(train)["mesh"]
    assert isinstance(config, MeshConfig)
    devices = jax.devices()[: np.prod(list(PRESETS[preset].values()))]
    assert dict(sharding.make_mesh(config, devices).shape) == PRESETS[preset]


def test_there_is_no_other_preset(request):
    files = (request.config.rootpath / "gin" / "mesh").glob("*.gin")
    assert {path.stem for path in files} == PRESETS.keys()


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (MeshConfig(data=3, fsdp=1), "does not cover the 8 devices"),
        (MeshConfig(data=3, fsdp=-1), "does not cover the 8 devices"),
        (MeshConfig(data=-1, fsdp=-1), "at most one may be -1"),
        (MeshConfig(fsdp=0), "must be positive"),
    ],
)
def test_meshes_that_cannot_be(config, message):
    with pytest.raises(ValueError, match=message):
        sharding.make_mesh(config)


@dataclasses.dataclass(frozen=True)
class Device:
    """What laying out a mesh asks of a device."""

    id: int
    platform: str
    device_kind: str = ""
    coords: tuple[int, ...] = ()
    slice_index: int = 0
    core_on_chip: int = 0


def torus(*sizes: int, kind: str = "TPU v6 lite", slice_index: int = 0) -> list[Device]:
    places = [place[::-1] for place in np.ndindex(*sizes[::-1])]
    return [Device(i, "tpu", kind, coords, slice_index) for i, coords in enumerate(places)]


@pytest.mark.parametrize("tensor", [1, 2, 8, 16])
@pytest.mark.parametrize(("kind", "sizes"), [("TPU v6 lite", (16, 16, 1)), ("TPU v4", (4, 8, 8))])
def test_any_power_of_two_divides_a_torus(kind, sizes, tensor):
    """Sizes need not be those of the torus, and a group lies close together all the same."""
    devices = torus(*sizes, kind=kind)
    mesh = sharding.make_mesh(MeshConfig(tensor=tensor), devices)
    assert dict(mesh.shape) == {"data": 1, "fsdp": 256 // tensor, "tensor": tensor}
    assert {device.id for device in mesh.devices.flat} == set(range(256))
    for group in mesh.devices.reshape(-1, tensor):
        extents = np.ptp([device.coords for device in group], axis=0) + 1
        assert np.prod(extents) == tensor, group  # a cuboid without holes


@pytest.mark.parametrize("platform", ["gpu", "cpu"])
def test_hosts_of_other_devices_than_tpus(platform):
    """JAX calls each host of GPUs a slice."""
    devices = [Device(i, platform, slice_index=i // 8) for i in range(32)]
    mesh = sharding.make_mesh(MeshConfig(data=2, tensor=4), devices)
    assert dict(mesh.shape) == {"data": 2, "fsdp": 4, "tensor": 4}
    for group in mesh.devices.reshape(-1, 4):
        assert len({device.slice_index for device in group}) == 1


def test_several_slices_of_tpus_are_data_parallel():
    devices = [*torus(4, 4, 1), *torus(4, 4, 1, slice_index=1)]
    mesh = sharding.make_mesh(MeshConfig(data=4, tensor=2), devices)
    assert dict(mesh.shape) == {"data": 4, "fsdp": 4, "tensor": 2}
    slices = np.vectorize(lambda device: device.slice_index)(mesh.devices)
    np.testing.assert_array_equal(slices[:2], 0)
    np.testing.assert_array_equal(slices[2:], 1)


def test_tpus_that_know_of_no_slices():
    """So it is with those of a topology that is compiled for without a TPU."""

    class Chip:
        def __init__(self, device):
            known = dataclasses.asdict(device)
            del known["slice_index"]
            vars(self).update(known)

    devices = [Chip(device) for device in torus(4, 4, 1)]
    assert sharding.make_mesh(MeshConfig(), devices).size == 16


@pytest.mark.parametrize("data", [1, 3])
def test_slices_that_data_does_not_divide(data):
    devices = [*torus(3, 4, 1), *torus(3, 4, 1, slice_index=1)]
    with pytest.raises(ValueError, match=rf"data = {data} is no multiple of 2, .*: set it to 2"):
        sharding.make_mesh(MeshConfig(data=data), devices)


@pytest.mark.parametrize(
    ("axes", "expected"),
    [
        (("embed", "mlp"), P("fsdp", "tensor")),
        (("layers", "embed", "heads", "kv"), P(None, "fsdp", "tensor", None)),
        (("vocab", "embed"), P("tensor", "fsdp")),
        (("batch", "length", None), P(("data", "fsdp"), None, None)),
        # An axis that is taken is not used twice.
        (("batch", "embed"), P(("data", "fsdp"), None)),
        (("heads", "mlp"), P("tensor", None)),
        ((), P()),
    ],
)
def test_rules(axes, expected):
    assert sharding.spec(axes) == expected


def test_unknown_logical_axis():
    with pytest.raises(ValueError, match="Unknown logical axis 'emebd'"):
        sharding.spec(("emebd",))


def test_parameters_that_do_not_divide():
    mesh = sharding.make_mesh(MeshConfig(tensor=2))
    params = {"head": jax.ShapeDtypeStruct((101, 8), np.float32)}
    with pytest.raises(ValueError, match=r"'head' has size 101 along dimension 0 \(vocab\)"):
        sharding.param_shardings(params, {"head": ("vocab", "embed")}, mesh)


@pytest.mark.parametrize("config", [MeshConfig(), MeshConfig(tensor=4), MeshConfig(data=2)])
def test_rows_go_to_devices_and_back(config):
    mesh = sharding.make_mesh(config)
    assert sharding.local_rows(mesh, 16) == tuple(range(16))
    local = {"x": np.arange(48).reshape(16, 3)}
    made = sharding.to_global(local, mesh, 16)["x"]
    np.testing.assert_array_equal(np.asarray(made), local["x"])
    ways = mesh.shape["data"] * mesh.shape["fsdp"]
    assert made.addressable_shards[0].data.shape == (16 // ways, 3)


@pytest.mark.parametrize(
    ("axis", "batch_shape", "weight_shape"),
    [("data", (4, 3), (8, 6)), ("fsdp", (4, 3), (4, 6)), ("tensor", (8, 3), (8, 3))],
)
def test_every_size_of_a_mesh_splits_something(axis, batch_shape, weight_shape):
    """Of [8, 3] and an [8, 6] weight, what a device of two holds; alone it holds all."""
    config = MeshConfig(**{"fsdp": 1, axis: 2})
    mesh = sharding.make_mesh(config, jax.devices()[:2])
    batch = sharding.to_global({"x": np.zeros((8, 3))}, mesh, 8)["x"]
    assert batch.addressable_shards[0].data.shape == batch_shape
    weight = {"w": jax.ShapeDtypeStruct((8, 6), np.float32)}
    (split,) = sharding.param_shardings(weight, {"w": ("embed", "mlp")}, mesh).values()
    assert split.shard_shape((8, 6)) == weight_shape
    assert {field.name for field in dataclasses.fields(MeshConfig)} == set(sharding.MESH_AXES)


def test_batches_that_do_not_divide():
    with pytest.raises(ValueError, match=r"BATCH_SIZE = 12 .* Use a multiple of 8"):
        sharding.local_rows(sharding.make_mesh(MeshConfig()), 12)


def test_constrain_needs_no_mesh():
    x = np.ones((2, 3))
    assert sharding.constrain(x, "batch", "embed") is x
    mesh = sharding.make_mesh(MeshConfig())
    with jax.set_mesh(mesh):
        y = jax.jit(lambda x: sharding.constrain(x, "batch", None))(np.ones((8, 3)))
    assert y.sharding.is_equivalent_to(sharding.batch_sharding(mesh), y.ndim)
