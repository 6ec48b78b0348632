"""What is said of a checkpoint that cannot be read: one sentence, once."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ul2tune.checkpoints import layout
from ul2tune.checkpoints.manager import CheckpointManager
from ul2tune.checkpoints.pieces import StoredArray
from ul2tune.checkpoints.restore import CorruptCheckpointError, restore_latest, restore_step
from ul2tune.checkpoints.stored import StoredArrays

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


@pytest.mark.parametrize("name", ["state/manifest.ocdbt", "meta/metadata"])
def test_what_may_not_be_read_is_not_damaged(tmp_path, monkeypatch, name):
    """No older checkpoint is trained on from, and none is set aside."""
    _save(tmp_path)
    secret = tmp_path / "2" / name
    _deny(monkeypatch, secret)
    device = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    leaf = jax.ShapeDtypeStruct((64, 64), "float32", sharding=device)
    with pytest.raises(PermissionError, match=f"{name} may not be read by this user.*chmod -R"):
        restore_latest(tmp_path, {"params": {f"w{i}": leaf for i in range(8)}})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["1", "2"]
    with pytest.raises(PermissionError, match=f"{name} may not be read by this user"):
        np.asarray(StoredArray(tmp_path / "2", "params/w0"))


@pytest.mark.parametrize("gone", ["2", "2/meta/metadata", "2/state/manifest.ocdbt"])
def test_what_is_not_there_is_not_forbidden(tmp_path, gone):
    """The run that writes there removes its oldest checkpoints, and a link may lead nowhere."""
    _save(tmp_path)
    (tmp_path / gone).rename(tmp_path / "elsewhere")
    if gone != "2":
        (tmp_path / gone).symlink_to(tmp_path / "nowhere")
    device = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    leaf = jax.ShapeDtypeStruct((64, 64), "float32", sharding=device)
    with pytest.raises(CorruptCheckpointError, match=r"missing or damaged|unreadable"):
        restore_step(tmp_path / "2", {"params": {"w0": leaf}})


OPEN = """
import logging, sys
from ul2tune.checkpoints.manager import CheckpointManager
logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(message)s", force=True)
CheckpointManager(sys.argv[1], keep_last=2).close()
"""


def test_a_damaged_note_of_orbax_is_one_warning(tmp_path):
    """In a process of its own: pytest has handlers of other kinds."""
    _save(tmp_path)
    (tmp_path / "1" / "_CHECKPOINT_METADATA").unlink()  # as in imported checkpoints
    (tmp_path / "2" / "_CHECKPOINT_METADATA").write_text('{"item')
    command = [sys.executable, "-c", OPEN, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    (told,) = done.stderr.splitlines()
    assert told.startswith(f"WARNING {tmp_path}/2/_CHECKPOINT_METADATA is damaged: Orbax's note")


def test_a_folder_that_is_not_named_as_a_step_is_none(tmp_path):
    for name in ("0", "10", "9", "007", "²", "٣", "5.bad", "7.orbax-checkpoint-tmp"):
        (tmp_path / name).mkdir()
    (tmp_path / "11").touch()
    assert layout.steps(tmp_path) == [0, 9, 10]


@pytest.mark.parametrize("note", ["", "[1]", '{"cGFyYW1zLncw": "[]"}', '{"?": "{}"}'])
def test_a_damaged_note_of_how_arrays_were_laid_out_is_a_warning(tmp_path, caplog, note):
    _save(tmp_path)
    file = tmp_path / "2/state/_sharding"
    assert file.is_file()
    file.write_text(note)
    assert StoredArrays(tmp_path / "2").partitions() == {}
    assert (f"{file} is damaged" in caplog.text) == (note != '{"?": "{}"}')


def _deny(monkeypatch, secret: Path) -> None:
    """Makes a file unreadable, for root too: the system's answers are those of another user."""
    may, read = os.access, Path.read_text
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != secret and may(path, mode))

    def read_text(path: Path, *args: Any, **kwargs: Any) -> str:
        if path == secret:
            raise PermissionError(13, "Permission denied", str(path))
        return read(path, *args, **kwargs)

    monkeypatch.setattr(Path, "read_text", read_text)
    if secret.name != "metadata":
        secret.write_bytes(b"")  # TensorStore opens files itself
