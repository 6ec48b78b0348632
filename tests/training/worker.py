"""A training process to kill, stop and restart: ``python -m tests.training.worker JSON``.

Every batch it draws is recorded as one hash per row, so that runs can be compared bit by bit.
"""

from __future__ import annotations

import dataclasses
import gc
import hashlib
import json
import os
import signal
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from tests.training import tiny
from ul2tune.checkpoints.manager import CheckpointManager
from ul2tune.feed import feed as feed_lib
from ul2tune.training import run as run_lib
from ul2tune.types import HookContext


@dataclasses.dataclass(frozen=True, kw_only=True)
class Orders:
    """What the process is told, as JSON.

    Attributes:
      model_dir, data_dir, batches: folders; `batches` is the file of recorded row hashes.
      devices: fake CPU devices of this process.
      mesh: fields of MeshConfig.
      train_steps: where the run ends.
      signal_step: after this step the process sends itself `signal`…
      signal_delay_secs: … this much later, in the middle of whatever it is doing.
      signal: "SIGKILL" or "SIGTERM".
      signal_again: the last save meets the same signal once more.
      process: index of this process of `processes`, which meet at `coordinator`.
    """

    model_dir: str
    data_dir: str
    batches: str
    devices: int = 2
    mesh: Mapping[str, int] = dataclasses.field(default_factory=dict)
    train_steps: int = 20
    signal_step: int | None = None
    signal_delay_secs: float = 0.0
    signal: str = "SIGKILL"
    signal_again: bool = False
    coordinator: str = ""
    process: int = 0
    processes: int = 1


# Whether the signal has come.
SENT = threading.Event()


@dataclasses.dataclass(frozen=True)
class SignalHook:
    """Sends this process a signal."""

    orders: Orders
    period_steps: int = 1

    def __call__(self, context: HookContext) -> dict[str, float]:
        if context.step == self.orders.signal_step:
            number = getattr(signal, self.orders.signal)
            delay = self.orders.signal_delay_secs
            if delay:
                threading.Timer(delay, os.kill, (os.getpid(), number)).start()
            else:
                os.kill(os.getpid(), number)
                SENT.set()
        return {}


class RecordingFeed(feed_lib.Feed):
    """Writes one line per batch: ``{row: hash of everything in it}``."""

    path: Path

    def __next__(self) -> dict[str, np.ndarray]:
        batch = super().__next__()
        line = {}
        for i, row in enumerate(self.rows.tolist()):
            digest = hashlib.sha256()
            for name in sorted(batch):
                digest.update(name.encode() + batch[name][i].tobytes())
            line[str(row)] = digest.hexdigest()
        number = int(self.get_state()["batch"][0])
        with self.path.open("a") as file:
            file.write(json.dumps({"batch": number, "rows": line}) + "\n")
        return batch


def signal_again(number: int) -> None:
    """Has this process get a signal once more while it waits for the save that the first led to."""
    save, wait = CheckpointManager.save, CheckpointManager.wait

    def last_save(manager: CheckpointManager, *arguments: Any) -> None:
        save(manager, *arguments)
        if SENT.is_set():
            CheckpointManager.wait = signalled

    def signalled(manager: CheckpointManager) -> None:
        CheckpointManager.wait = wait
        os.kill(os.getpid(), number)
        wait(manager)

    CheckpointManager.save = last_save


def main(orders: Orders) -> None:
    jax.config.update("jax_num_cpu_devices", orders.devices)
    if orders.processes > 1:
        jax.distributed.initialize(
            orders.coordinator, num_processes=orders.processes, process_id=orders.process
        )
    RecordingFeed.path = Path(orders.batches)
    run_lib.Feed = RecordingFeed  # type: ignore[misc]
    arguments: dict[str, Any] = tiny.arguments(
        orders.model_dir, orders.data_dir, train_steps=orders.train_steps, mesh=orders.mesh
    )
    if orders.signal_again:
        signal_again(getattr(signal, orders.signal))
    hooks = [SignalHook(orders)] if orders.signal_step is not None else []
    run_lib.train(**arguments, hooks=hooks)


if __name__ == "__main__":
    gc.set_threshold(100_000, 50, 100)  # as in tests/conftest.py
    main(Orders(**json.loads(sys.argv[1])))
