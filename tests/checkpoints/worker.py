"""One of two processes that restore together: ``python -m tests.checkpoints.worker I PORT DIR``.

It writes a JSON line per case: what came of it.
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


def report(case: str, compute: Callable[[], Any]) -> None:
    try:
        outcome = {"found": compute()}
    except Exception as error:
        outcome = {"error": type(error).__name__, "message": str(error)}
    print("CASE", json.dumps({"case": case, **outcome}), flush=True)


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


def spoil(file: Path) -> None:
    """Process 0 does; both go on afterwards."""
    if jax.process_index() == 0:
        file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    multihost_utils.sync_global_devices(str(file))


def main(index: int, port: str, folder: Path) -> None:
    jax.config.update("jax_num_cpu_devices", 1)
    jax.distributed.initialize(f"127.0.0.1:{port}", num_processes=2, process_id=index)
    for name in ("arrays", "meta", "newer", "sound"):
        save(folder / name, 1, 2)

    files = (folder / "arrays/2/state/ocdbt.process_1/d").iterdir()
    spoil(max(files, key=lambda file: file.stat().st_size))
    report("arrays of process 1 damaged", lambda: restored(folder / "arrays"))

    spoil(folder / "meta/2/meta/metadata")
    report("meta damaged", lambda: restored(folder / "meta"))

    if index == 0:
        meta = {**layout.read_meta(folder / "newer/2"), "format_version": 99}
        (folder / "newer/2/meta/metadata").write_text(json.dumps(layout.seal(meta)))
    report("newer format", lambda: restored(folder / "newer"))

    elsewhere = folder / ("sound" if index == 0 else "not shared")
    report("not shared", lambda: restored(elsewhere))

    def accept(meta: Mapping[str, Any], where: str) -> None:
        if index == 1:
            raise ValueError(f"{where} is refused")

    report("refused by process 1", lambda: restored(folder / "sound", accept))
    report("package that process 1 lacks", lambda: imported("json" if index == 0 else "no_such"))
    report("streams", gathered)
    report("resolved", lambda: str(initialize.resolve(elsewhere)))
    report("nothing to resolve", lambda: str(initialize.resolve(folder / "absent")))


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2], Path(sys.argv[3]))
