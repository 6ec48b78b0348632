"""Saving, retention, verification, fallback: real files, really damaged."""

import gc
import json
import logging
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from ul2tune.checkpoints import initialize, layout
from ul2tune.checkpoints.manager import CheckpointManager, CheckpointWriteError
from ul2tune.checkpoints.restore import CorruptCheckpointError, restore_latest, restore_step

# Reading a damaged file makes Orbax drop coroutines that complain when they are collected.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


@pytest.fixture(autouse=True)
def collect_here():
    yield
    gc.collect()


def _state(step: int = 0, size: int = 64) -> dict[str, Any]:
    params = {
        "layer": {"kernel": jnp.arange(8 * size, dtype=jnp.float32).reshape(8, size) + step},
        "scale": jnp.full((8,), 1 + step, jnp.bfloat16),
    }
    return {"step": jnp.int32(step), "params": params, "opt_state": optax.adam(0.1).init(params)}


def _abstract(state: Any, spec: P | None = None) -> Any:
    spec = P() if spec is None else spec
    mesh = jax.make_mesh((8,), ("a",), axis_types=(AxisType.Auto,))

    def leaf(x):
        sharding = NamedSharding(mesh, spec if x.ndim else P())
        return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding)

    return jax.tree.map(leaf, state)


def _save(directory: Path, *steps: int, keep_last: int = 10, **kwargs) -> None:
    manager = CheckpointManager(directory, keep_last=keep_last, **kwargs)
    for step in steps:
        manager.save(step, _state(step), {"clock": {"seconds": 0.1 + step}})
    manager.close()


def _assert_equal(a: Any, b: Any) -> None:
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b)):
        assert x.dtype == y.dtype
        np.testing.assert_array_equal(np.asarray(x), np.asarray(y))


def _data_files(step_dir: Path) -> list[Path]:
    """The files that hold array bytes, biggest first."""
    files = [p for p in (step_dir / "state").rglob("*") if p.is_file() and p.parent.name == "d"]
    return sorted(files, key=lambda p: -p.stat().st_size)


@pytest.mark.parametrize("spec", [P(), P("a")])
def test_round_trip_on_another_sharding(tmp_path, spec):
    _save(tmp_path, 3)
    restored = restore_latest(tmp_path, _abstract(_state(), spec))
    assert restored is not None
    assert restored.step == 3
    assert restored.meta["clock"] == {"seconds": 3.1}
    _assert_equal(restored.state, _state(3))
    assert restored.state["params"]["layer"]["kernel"].sharding.spec == spec


def test_nothing_saved_is_none(tmp_path):
    assert restore_latest(tmp_path / "absent", _abstract(_state())) is None
    CheckpointManager(tmp_path, keep_last=1).close()
    assert restore_latest(tmp_path, _abstract(_state())) is None


def test_retention(tmp_path):
    _save(tmp_path, 0, 2, 4, 6, 8, keep_last=2, keep_period_steps=4)
    assert layout.steps(tmp_path) == [0, 4, 6, 8]
    with pytest.raises(ValueError, match="keep_checkpoints = 0"):
        CheckpointManager(tmp_path, keep_last=0)


def test_a_start_that_would_delete_what_another_kept_says_so(tmp_path, caplog):
    rules: dict[str, int] = {"keep_last": 1, "keep_period_steps": 4}
    _save(tmp_path, 0, 4, 6, **rules)
    CheckpointManager(tmp_path, **rules).close()
    CheckpointManager(tmp_path, keep_last=3).close()
    assert "deletes" not in caplog.text
    CheckpointManager(tmp_path, keep_last=1).close()
    assert "The next save deletes checkpoints that an earlier start kept: 0, 4 in" in caplog.text
    assert "keep_checkpoint_period_steps = None. To keep them" in caplog.text
    assert layout.steps(tmp_path) == [0, 4, 6]


def _flip(path: Path, offset: int, bit: int = 3) -> None:
    data = bytearray(path.read_bytes())
    data[offset] ^= 1 << bit
    path.write_bytes(data)


def test_bit_flips_are_never_silent(tmp_path):
    """Flips at many places of every file: each restores exactly what was saved, or falls back."""
    _save(tmp_path / "clean", 1, 2)
    rng = np.random.default_rng(1)
    files = [p for p in (tmp_path / "clean" / "2").rglob("*") if p.is_file() and p.stat().st_size]
    cases = [(p, 0.5) for p in files] + [
        (files[i], rng.random()) for i in rng.integers(0, len(files), 6)
    ]
    cases += [(p, at) for p in _data_files(tmp_path / "clean" / "2")[:1] for at in (0.2, 0.6, 0.9)]
    fell_back = 0
    for n, (path, at) in enumerate(cases):
        copy = tmp_path / f"copy{n}"
        shutil.copytree(tmp_path / "clean", copy)
        victim = copy / path.relative_to(tmp_path / "clean")
        _flip(victim, int(at * victim.stat().st_size))
        restored = restore_latest(copy, _abstract(_state()))
        assert restored is not None
        fell_back += restored.step == 1
        _assert_equal(restored.state, _state(restored.step))
        assert (copy / "2.bad").exists() == (restored.step == 1)
        shutil.rmtree(copy)
    assert fell_back >= 4


def test_a_flip_in_the_payload_falls_back_with_a_warning(tmp_path, caplog):
    """The case Orbax does not notice: uncompressed-looking bytes that still decode."""
    _save(tmp_path, 1, 2)
    meta = layout.read_meta(tmp_path / "2")
    # The same files with other recorded numbers is what an undetected flip looks like.
    meta["leaves"]["params/scale"][2] ^= 1
    (tmp_path / "2" / "meta" / "metadata").write_text(json.dumps(layout.seal(meta)))
    with caplog.at_level(logging.WARNING, "ul2tune"):
        restored = restore_latest(tmp_path, _abstract(_state()))
    assert restored is not None
    assert restored.step == 1
    assert "Checkpoint 2 is damaged" in caplog.text
    assert "params/scale" in caplog.text
    assert (tmp_path / "2.bad").is_dir()


def _truncate(step_dir: Path) -> None:
    path = _data_files(step_dir)[0]
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def _delete_data(step_dir: Path) -> None:
    _data_files(step_dir)[0].unlink()


def _delete_meta(step_dir: Path) -> None:
    shutil.rmtree(step_dir / "meta")


def _empty(step_dir: Path) -> None:
    shutil.rmtree(step_dir)
    step_dir.mkdir()


@pytest.mark.parametrize("damage", [_truncate, _delete_data, _delete_meta, _empty])
def test_half_written_newest_falls_back(tmp_path, damage):
    _save(tmp_path, 1, 2)
    damage(tmp_path / "2")
    restored = restore_latest(tmp_path, _abstract(_state()))
    assert restored is not None
    assert restored.step == 1
    # The number is free again, and a second bad checkpoint of the same step gets a name of its own.
    _save(tmp_path, 2)
    damage(tmp_path / "2")
    restored = restore_latest(tmp_path, _abstract(_state()))
    assert restored is not None
    assert restored.step == 1
    assert sorted(p.name for p in tmp_path.glob("*.bad*")) == ["2.bad", "2.bad-2"]
    # So does a third, whichever of them somebody has removed.
    shutil.rmtree(tmp_path / "2.bad")
    for third in ("2.bad", "2.bad-3"):
        _save(tmp_path, 2)
        damage(tmp_path / "2")
        restored = restore_latest(tmp_path, _abstract(_state()))
        assert restored is not None
        assert restored.step == 1
        assert (tmp_path / third).is_dir()


def test_all_bad_is_an_error_and_stays_one(tmp_path):
    _save(tmp_path, 1, 2)
    for step in (1, 2):
        _delete_data(tmp_path / str(step))
    for _ in range(2):
        with pytest.raises(CorruptCheckpointError, match="None of the checkpoints"):
            restore_latest(tmp_path, _abstract(_state()))
    # The cause may be lack of memory: nothing is renamed unless an older one shows it is not.
    assert layout.steps(tmp_path) == [1, 2]
    assert not list(tmp_path.glob("*.bad*"))


def test_another_model_is_a_user_error_not_corruption(tmp_path):
    _save(tmp_path, 1)
    wrong_dtype = _state()
    wrong_dtype["params"]["scale"] = wrong_dtype["params"]["scale"].astype(jnp.float32)
    missing = _state()
    missing["params"]["other"] = jnp.zeros(8)
    for state, words in [
        (_state(size=32), "wants float32\\[8, 32\\]"),
        (wrong_dtype, "bfloat16"),
        (missing, "other"),
    ]:
        with pytest.raises(ValueError, match=words):
            restore_latest(tmp_path, _abstract(state))
    assert layout.steps(tmp_path) == [1]


def test_a_newer_format_is_not_damage(tmp_path):
    _save(tmp_path, 1, 2)
    meta = {**layout.read_meta(tmp_path / "2"), "format_version": layout.FORMAT_VERSION + 1}
    (tmp_path / "2" / "meta" / "metadata").write_text(json.dumps(layout.seal(meta)))
    with pytest.raises(ValueError, match=r"2 was made by a newer ul2tune") as caught:
        restore_latest(tmp_path, _abstract(_state()))
    assert not isinstance(caught.value, CorruptCheckpointError)
    assert layout.steps(tmp_path) == [1, 2]
    assert not list(tmp_path.glob("*.bad*"))


def test_stale_unfinished_writes_are_removed(tmp_path):
    _save(tmp_path, 1)
    stale = tmp_path / "2.orbax-checkpoint-tmp"
    shutil.copytree(tmp_path / "1", stale)
    restored = restore_latest(tmp_path, _abstract(_state()))
    assert restored is not None
    assert restored.step == 1
    _save(tmp_path, 3)
    assert not stale.exists()


def test_parameters_alone(tmp_path):
    """What evaluation and INITIAL_CHECKPOINT_PATH read: a MODEL_DIR, its steps, or one step."""
    root = tmp_path / layout.SUBDIRECTORY
    _save(root, 1, 2)
    abstract = _abstract(_state()["params"], P("a"))
    for path, step in [(tmp_path, 2), (root, 2), (root / "1", 1)]:
        init = initialize.from_checkpoint(str(path))
        assert init.first_step == step
        assert initialize.from_checkpoint(str(path), keep_step=False).first_step == 0
        _assert_equal(init(abstract), _state(step)["params"])
    with pytest.raises(ValueError, match="No checkpoint at"):
        initialize.load_params(tmp_path / "nowhere", abstract)
    with pytest.raises(ValueError, match=r"No checkpoint at '.*/7': .* There are steps 1, 2\.$"):
        initialize.load_params(root / "7", abstract)
    (tmp_path / "flan").mkdir()
    (tmp_path / "flan" / "config.json").touch()
    with pytest.raises(ValueError, match=r"Transformers: first `ul2tune import hf .*/flan MODEL"):
        initialize.load_params(tmp_path / "flan", abstract)
    shutil.copytree(root / "2", tmp_path / "one" / "2")
    with pytest.raises(ValueError, match=r"There is step 2\.$"):
        initialize.load_params(tmp_path / "one" / "7", abstract)
    part = {"layer": abstract["layer"]}
    with pytest.raises(ValueError, match=r"2 holds 'params/scale', which this model does not have"):
        initialize.load_params(tmp_path, part)
    _truncate(root / "2")
    with pytest.raises(CorruptCheckpointError, match=r"checkpoints/2 is damaged: unreadable"):
        initialize.load_params(tmp_path, abstract)


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 3 MB."""
    path = tmp_path / "disk"
    path.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", str(path)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("mounting a tmpfs is not permitted here")
    yield path
    subprocess.run(["umount", str(path)], check=True)


def test_full_disk_keeps_the_old_checkpoint(small_disk, caplog):
    def save(step: int, size: int) -> None:
        manager = CheckpointManager(small_disk, keep_last=1)
        try:
            manager.save(step, _random_state(step, size), {})
        finally:
            manager.close()

    save(1, 4000)
    with pytest.raises(CheckpointWriteError, match=r"(?s)No space left on device.*step 1\b"):
        save(2, 400_000)
    gc.collect()
    # What Orbax and asyncio would log of it at length.
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]
    restored = restore_step(small_disk / "1", _abstract(_random_state(1, 4000)))
    _assert_equal(restored.state, _random_state(1, 4000))
    # After space is freed (the run opens the folder again), saving works.
    save(3, 4000)
    assert layout.steps(small_disk) == [3]


@pytest.mark.parametrize(
    "notice",
    [
        lambda manager: manager.save(16, _random_state(16, 4), {}),
        CheckpointManager.check,
        CheckpointManager.wait,
    ],
)
def test_the_save_that_failed_is_named_not_the_one_that_found_out(tmp_path, monkeypatch, notice):
    manager = CheckpointManager(tmp_path, keep_last=1)
    manager.save(12, _random_state(12, 4), {})
    manager.wait()

    def fail(*_):
        raise OSError("No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(ocp.CheckpointManager, "wait_until_finished", fail)
        patch.setattr(ocp.CheckpointManager, "check_for_errors", fail)
        with pytest.raises(CheckpointWriteError, match=r"Could not save step 12 in .*No space"):
            notice(manager)
    manager.close()


def test_a_reason_that_is_not_known_is_the_first_sentence_of_the_cause(tmp_path, monkeypatch):
    manager = CheckpointManager(tmp_path, keep_last=1)
    cause = ValueError("INTERNAL: Error writing \"x\" [source locations='a.cc:1\\nb.cc:2']\nmore")

    def fail(*_):
        raise RuntimeError("what Orbax makes of it") from cause

    with monkeypatch.context() as patch:
        patch.setattr(ocp.CheckpointManager, "check_for_errors", fail)
        words = r": INTERNAL: Error writing \"x\"\. Newest complete checkpoint: none\. Free disk"
        with pytest.raises(CheckpointWriteError, match=words):
            manager.check()
    manager.close()


def _random_state(step: int, size: int) -> dict[str, Any]:
    return {"params": {"x": jax.random.normal(jax.random.key(step), (8, size))}}
