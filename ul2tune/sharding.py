"""Device meshes, and the one table from logical axes to mesh axes.

Models name their axes logically (``nnx.Param(x, axes=("embed", "mlp"))``) and never see a mesh;
everything that knows about devices is here. All meshes have the same three axes, so one rules table
serves every preset:

    data    batch is split, parameters are replicated
    fsdp    batch is split, parameters are split along their `embed` axis
    tensor  parameters and activations are split along heads, mlp and vocabulary
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from ul2tune import tree

MESH_AXES = ("data", "fsdp", "tensor")

# logical axis -> mesh axis or axes. Every axis a model uses must be listed (None = replicated).
RULES: Mapping[str, str | tuple[str, ...] | None] = {
    "batch": ("data", "fsdp"),
    "length": None,
    "embed": "fsdp",
    "mlp": "tensor",
    "heads": "tensor",
    "kv_heads": "tensor",
    "kv": None,
    "vocab": "tensor",
    "relpos_buckets": None,
    "positions": None,
    "projection": None,
    "layers": None,
}
# Axes that are replicated where their size is not divisible by the mesh axes: a model may have a
# single key/value head, which every device of a tensor group then holds.
MAY_STAY_WHOLE = frozenset({"kv_heads"})


@dataclass(frozen=True, kw_only=True)
class MeshConfig:
    """Sizes of the mesh axes; exactly one may be -1, which takes all remaining devices."""

    data: int = 1
    fsdp: int = -1
    tensor: int = 1

    def sizes(self, num_devices: int) -> tuple[int, ...]:
        """Returns the sizes along :data:`MESH_AXES`.

        Raises:
          ValueError: if the sizes do not multiply to `num_devices`.
        """
        sizes = [getattr(self, axis) for axis in MESH_AXES]
        free = [i for i, size in enumerate(sizes) if size == -1]
        fixed = math.prod(size for size in sizes if size != -1)
        if len(free) > 1 or any(size < 1 for size in sizes if size != -1):
            raise ValueError(
                f"{self}: sizes must be positive, and at most one may be -1 (all remaining "
                f"devices)."
            )
        if free and num_devices % fixed == 0:
            sizes[free[0]] = num_devices // fixed
        if math.prod(sizes) != num_devices:
            raise ValueError(
                f"{self} does not cover the {num_devices} devices of this run: data x fsdp x "
                f"tensor must be {num_devices}. Set one of the sizes to -1 to let it take the "
                f"remaining devices."
            )
        return tuple(sizes)


def make_mesh(config: MeshConfig, devices: Sequence[Any] | None = None) -> Mesh:
    """Builds the mesh over `devices` (default: all devices of all processes).

    Not by `jax.make_mesh`. That takes hosts of GPUs or CPUs for slices of TPUs and refuses more
    than one, and refuses axes (`tensor` = 2 of a 16 x 16 torus) that are no whole axes of the
    torus.

    Several TPU slices lie along `data`: what crosses the slower network between them is then the
    sum of gradients, once per step.

    Raises:
      ValueError: if the sizes do not cover the devices, or `data` is no multiple of the slices.
    """
    devices = jax.devices() if devices is None else devices
    data, fsdp, tensor = config.sizes(len(devices))
    tpus = [device for device in devices if device.platform == "tpu"]
    # A TPU that is one slice may have no such attribute, as those of a topology do not.
    slices = len({getattr(device, "slice_index", 0) for device in tpus}) or 1
    if data % slices:
        raise ValueError(
            f"MeshConfig.data = {data} is no multiple of {slices}, the number of TPU slices of "
            f"this run, which are data-parallel: set it to {slices}, or start on the hosts of one "
            f"slice."
        )
    within = (data // slices, fsdp, tensor)
    if slices == 1:
        arranged = mesh_utils.create_device_mesh(within, devices, allow_split_physical_axes=True)
    else:
        arranged = mesh_utils.create_hybrid_device_mesh(
            within, (slices, 1, 1), devices, allow_split_physical_axes=True
        )
    # Auto: in the other type, Explicit, sharding constraints are assertions.
    return Mesh(arranged, MESH_AXES, axis_types=(AxisType.Auto,) * 3)


def spec(
    axes: Sequence[str | None],
    shape: Sequence[int] | None = None,
    mesh_shape: Mapping[str, int] | None = None,
) -> PartitionSpec:
    """Logical axes -> PartitionSpec. The first logical axis that asks for a mesh axis gets it.

    Given sizes of the array and the mesh, axes of :data:`MAY_STAY_WHOLE` that do not divide are
    replicated.
    """
    used: set[str] = set()
    entries: list[Any] = []
    for dim, axis in enumerate(axes):
        if axis is not None and axis not in RULES:
            raise ValueError(
                f"Unknown logical axis {axis!r}; the rules table knows {sorted(RULES)}."
            )
        rule = RULES[axis] if axis is not None else None
        wanted = (rule,) if isinstance(rule, str) else tuple(rule or ())
        free = tuple(name for name in wanted if name not in used)
        if axis in MAY_STAY_WHOLE and shape and mesh_shape:
            divides = shape[dim] % math.prod(mesh_shape[name] for name in free) == 0
            free = free if divides else ()
        used.update(free)
        entries.append(free[0] if len(free) == 1 else (free or None))
    return PartitionSpec(*entries)


def sharding_for(
    path: str, shape: Sequence[int], axes: Sequence[str | None], mesh: Mesh
) -> NamedSharding:
    """Sharding of one array.

    Raises:
      ValueError: if a dimension is not divisible by the mesh axes it is split over.
    """
    assert len(shape) == len(axes), (path, shape, axes)
    partition = spec(axes, shape, mesh.shape)
    for dim, (size, entry) in enumerate(zip(shape, tuple(partition))):
        names = [entry] if isinstance(entry, str) else list(entry or ())
        ways = math.prod(mesh.shape[name] for name in names)
        if size % ways:
            raise ValueError(
                f"Parameter {path!r} has size {size} along dimension {dim} ({axes[dim]}), which "
                f"is not divisible by mesh axis {'x'.join(names)} = {ways}. Choose a smaller "
                f"{names[0]!r} size or pad the model (vocabularies: round up to a multiple of 128)."
            )
    return NamedSharding(mesh, partition)


def param_shardings(
    params: Mapping[str, Any], axes: Mapping[str, Any], mesh: Mesh
) -> dict[str, Any]:
    """Shardings of a (perhaps abstract) parameter tree; `axes`: its tree of logical-axis tuples."""
    return tree.map_with_path(lambda path, p, a: sharding_for(path, p.shape, a, mesh), params, axes)


def with_shardings(abstract: Any, shardings: Any) -> Any:
    """A tree of arrays, perhaps abstract, as `jax.ShapeDtypeStruct` with these shardings: what a
    checkpoint is restored into, and what `jax.jit` is lowered for."""
    return jax.tree.map(
        lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), abstract, shardings
    )


def replicated(mesh: Mesh) -> NamedSharding:
    return NamedSharding(mesh, PartitionSpec())


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Rows of the batch over `data` x `fsdp`; everything after the first axis is replicated."""
    return NamedSharding(mesh, spec(("batch",)))


def local_rows(mesh: Mesh, batch_size: int) -> tuple[int, ...]:
    """The rows of the global batch that this process's devices hold, in ascending order.

    Raises:
      ValueError: if the batch is not divisible by the data-parallel size.
    """
    ways = mesh.shape["data"] * mesh.shape["fsdp"]
    if batch_size % ways:
        raise ValueError(
            f"BATCH_SIZE = {batch_size} is not divisible by data x fsdp = {ways} of the mesh. "
            f"Use a multiple of {ways}."
        )
    indices = batch_sharding(mesh).addressable_devices_indices_map((batch_size,))
    rows: set[int] = set()
    for index in indices.values():
        assert index is not None
        rows.update(range(*index[0].indices(batch_size)))
    return tuple(sorted(rows))


def to_global(local: Mapping[str, np.ndarray], mesh: Mesh, batch_size: int) -> dict[str, jax.Array]:
    """Assembles this process's rows, ordered as :func:`local_rows`, into global arrays [B, ...]."""
    sharding = batch_sharding(mesh)
    return {
        name: jax.make_array_from_process_local_data(
            sharding, value, (batch_size, *value.shape[1:])
        )
        for name, value in local.items()
    }


def _mesh_in_use() -> jax.sharding.AbstractMesh | None:
    """The current mesh; None where none is set, or where it is that of another program (T5X), which
    has axes and rules of its own."""
    mesh = jax.sharding.get_abstract_mesh()
    return mesh if set(MESH_AXES) <= set(mesh.axis_names) else None


def batch_groups(batch_size: int) -> int:
    """The number of groups of rows that our mesh splits a batch into; 1 without a mesh, or where
    the rows do not divide.

    Sums over rows that are kept per group cost no communication until the groups are added up.
    """
    mesh = _mesh_in_use()
    if mesh is None:
        return 1
    groups = math.prod(mesh.shape[axis] for axis in RULES["batch"] or ())
    return groups if batch_size % groups == 0 else 1


def by_rows(function: Callable[[jax.Array], Any], x: jax.Array) -> Any:
    """``function(x)`` of independent rows: every device computes those of its own.

    For operations that XLA does not partition (`top_k`): it would gather all rows on every device
    first.
    """
    if batch_groups(x.shape[0]) == 1:
        return function(x)
    rows = spec(("batch",))
    axes = set(RULES["batch"] or ())
    return jax.shard_map(function, in_specs=rows, out_specs=rows, axis_names=axes)(x)


def constrain(x: jax.Array, *axes: str | None) -> jax.Array:
    """Constrains an activation to its logical axes; does nothing where there is no mesh of ours."""
    mesh = _mesh_in_use()
    if mesh is None:
        return x
    return jax.lax.with_sharding_constraint(x, spec(axes, x.shape, mesh.shape))
