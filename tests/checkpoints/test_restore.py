"""What is said of a checkpoint that cannot be read: one sentence, once."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

from ul2tune.checkpoints.manager import CheckpointManager

RESTORE = """
import logging, sys
import jax
from ul2tune.checkpoints.restore import restore_latest
logging.basicConfig(level=logging.WARNING, format="%(message)s", force=True)
device = jax.sharding.SingleDeviceSharding(jax.devices()[0])
leaf = jax.ShapeDtypeStruct((64, 64), "float32", sharding=device)
restored = restore_latest(sys.argv[1], {"params": {f"w{i}": leaf for i in range(8)}})
print("restored", restored.step)
"""


def _save(folder: Path) -> None:
    manager = CheckpointManager(folder, keep_last=2)
    for step in (1, 2):
        params = {f"w{i}": jax.random.normal(jax.random.key(i), (64, 64)) for i in range(8)}
        manager.save(step, {"step": jnp.int32(step), "params": params}, {})
    manager.close()


def _flip_in_manifest(step_dir: Path) -> None:
    path = step_dir / "state" / "manifest.ocdbt"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def _delete_data(step_dir: Path) -> None:
    files = [p for p in (step_dir / "state").rglob("d/*") if p.is_file()]
    max(files, key=lambda p: p.stat().st_size).unlink()


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (_flip_in_manifest, ["manifest.ocdbt", "CRC-32C checksum verification failed"]),
        (_delete_data, ["Error reading", "params.w"]),
    ],
)
def test_damage_is_told_once_in_a_sentence(tmp_path, damage, words):
    """In a process of its own: the threads of TensorStore print past everything a test captures."""
    _save(tmp_path)
    damage(tmp_path / "2")
    command = [sys.executable, "-c", RESTORE, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout == "restored 1\n"
    assert done.stderr.count("\n") == 2, done.stderr
    told, aside = done.stderr.splitlines()
    assert told.startswith("Checkpoint 2 is damaged: unreadable (")
    assert told.endswith("). Trying the one before it.")
    assert all(word in told for word in words)
    assert not any(noise in told for noise in ("bound method", "tensorstore_spec", "Tensorstore"))
    assert aside == "Checkpoint 2 was set aside as 2.bad."
