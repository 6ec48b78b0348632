"""One of two processes that restore together: ``python -m tests.checkpoints.worker I PORT DIR``.

It writes what came of each case to ``DIR/report{I}.json``.
"""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from ul2tune import tree
from ul2tune.checkpoints import agreement, initialize, layout, streams
from ul2tune.checkpoints.manager import CheckpointManager
from ul2tune.checkpoints.restore import restore_latest


def state(step: int) -> dict[str, Any]:
    """One array in halves, one held by both processes."""
    mesh = jax.make_mesh((2,), ("fsdp",), axis_types=(AxisType.Auto,))
    split, whole = NamedSharding(mesh, P("fsdp")), NamedSharding(mesh, P())

    def draw() -> dict[str, Any]:
        x = jax.random.normal(jax.random.key(step), (64, 4096))
        return {"step": jnp.int32(step), "params": {"split": x, "whole": x[0]}}

    out = {"step": whole, "params": {"split": split, "whole": whole}}
    return jax.jit(draw, out_shardings=out)()


def save(directory: Path, *steps: int) -> None:
    manager = CheckpointManager(directory, keep_last=10)
    for step in steps:
        manager.save(step, state(step), {"clock": 0.1})
    manager.close()


def outcome(compute: Callable[[], Any]) -> dict[str, Any]:
    try:
        return {"found": compute()}
    except Exception as error:
        return {"error": type(error).__name__, "message": str(error)}


def restored(directory: Path, accept: Any = None) -> int:
    abstract = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), state(0)
    )
    found = restore_latest(directory, abstract, accept)
    assert found is not None
    same = jax.jit(lambda a, b: jnp.array([jnp.all(a[k] == b[k]) for k in a]))
    assert same(*(tree.flatten(x) for x in (found.state, state(found.step)))).all()
    return found.step


def gathered() -> dict[str, Any]:
    """Streams of both processes, which hold other numbers of rows, and how often these talked to
    each other for them."""
    calls, gather = [], multihost_utils.process_allgather

    def counted(*args: Any, **kwargs: Any) -> Any:
        calls.append(args)
        return gather(*args, **kwargs)

    rows = ([1], [0, 1])[jax.process_index()]
    pending = np.array([[[row, 2**62], [-1, 5]] for row in rows])
    local = {"row": np.array(rows), "pending": pending}
    multihost_utils.process_allgather = counted
    try:
        state = streams.gather(local)
    finally:
        multihost_utils.process_allgather = gather
    return {"state": state, "calls": len(calls)}


def imported(module: str) -> str:
    with agreement.together():
        return importlib.import_module(module).__name__


def spoil(folder: Path) -> None:
    """Process 0 cuts the largest file; both go on afterwards."""
    if jax.process_index() == 0:
        file = max(folder.iterdir(), key=lambda file: file.stat().st_size)
        file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    multihost_utils.sync_global_devices(str(folder))


def main(index: int, port: str, folder: Path) -> None:
    jax.config.update("jax_num_cpu_devices", 1)
    jax.distributed.initialize(f"127.0.0.1:{port}", num_processes=2, process_id=index)
    for name in ("arrays", "meta", "newer", "sound"):
        save(folder / name, 1, 2)

    elsewhere = folder / ("sound" if index == 0 else "not shared")

    def accept(meta: Mapping[str, Any], where: str) -> None:
        if index == 1:
            raise ValueError(f"{where} is refused")

    spoil(folder / "arrays/2/state/ocdbt.process_1/d")
    spoil(folder / "meta/2/meta")
    if index == 0:
        meta = {**layout.read_meta(folder / "newer/2"), "format_version": 99}
        (folder / "newer/2/meta/metadata").write_text(json.dumps(layout.seal(meta)))
    cases: dict[str, Callable[[], Any]] = {
        "arrays of process 1 damaged": lambda: restored(folder / "arrays"),
        "meta damaged": lambda: restored(folder / "meta"),
        "newer format": lambda: restored(folder / "newer"),
        "not shared": lambda: restored(elsewhere),
        "refused by process 1": lambda: restored(folder / "sound", accept),
        "package that process 1 lacks": lambda: imported("json" if index == 0 else "no_such"),
        "streams": gathered,
        "resolved": lambda: str(initialize.resolve(elsewhere)),
        "nothing to resolve": lambda: str(initialize.resolve(folder / "absent")),
    }
    outcomes = {case: outcome(compute) for case, compute in cases.items()}
    (folder / f"report{index}.json").write_text(json.dumps(outcomes))


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2], Path(sys.argv[3]))
