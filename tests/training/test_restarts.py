"""Real processes, really killed: what a run leaves must not show how often it was interrupted."""

from __future__ import annotations

import random
import signal
from pathlib import Path
from typing import Any

import pytest

from tests.training import tiny
from tests.training.processes import (
    assert_same_metrics,
    batches,
    finish_all,
    free_port,
    lines,
    newest,
    run,
    start,
)

pytestmark = pytest.mark.slow
STEPS = 20


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("data")
    tiny.write_data(path)
    return path


@pytest.fixture(scope="module")
def straight(tmp_path_factory, data_dir) -> Path:
    """A run of 20 steps on 8 devices that nothing disturbs."""
    path = tmp_path_factory.mktemp("straight")
    run(**orders(path, data_dir))
    assert newest(path / "run")[0] == STEPS
    assert sorted(batches(path / "batches.jsonl")) == list(range(1, STEPS + 1))
    return path


def orders(path: Path, data_dir: Path, **kwargs: Any) -> dict[str, Any]:
    values = {
        "model_dir": str(path / "run"),
        "data_dir": str(data_dir),
        "batches": str(path / "batches.jsonl"),
        "devices": 8,
        "train_steps": STEPS,
    }
    return {**values, **kwargs}


def test_interruptions_leave_no_trace(tmp_path, data_dir, straight):
    """kill -9 twice, in the middle of whatever it does, then SIGTERM twice: all bits agree."""
    rng = random.Random(0)
    first, second, third = sorted(rng.sample(range(2, STEPS - 1), 3))
    for step in (first, second):
        kill = {"signal_step": step, "signal_delay_secs": rng.uniform(0, 0.1)}
        run(expect=-signal.SIGKILL, **orders(tmp_path, data_dir, **kill))
    term = {"signal_step": third, "signal": "SIGTERM", "signal_again": True}
    stopped = run(**orders(tmp_path, data_dir, **term))
    assert f"Stopped by SIGTERM after step {third}" in stopped
    assert newest(tmp_path / "run")[0] == third
    run(**orders(tmp_path, data_dir))
    found, expected = tmp_path / "run", straight / "run"
    assert (found / "metrics.jsonl").read_bytes() == (expected / "metrics.jsonl").read_bytes()
    # Fingerprints of all parameters and optimiser moments, stream states, counters: every bit.
    (_, meta), (_, expected_meta) = newest(found), newest(expected)
    for name in ("step", "leaves", "streams", "window", "config"):
        assert meta[name] == expected_meta[name], name
    assert batches(tmp_path / "batches.jsonl") == batches(straight / "batches.jsonl")


def test_one_run_handed_from_topology_to_topology(tmp_path, data_dir, straight):
    """2 processes x 4 devices, then 4 devices (fsdp x tensor), 2 x 4 again, at last one device.

    SIGTERM reaches only the second of two processes; both stop at one step. The batches are the
    straight run's to the last bit, the losses to rounding.
    """
    files = [tmp_path / f"batches{i}.jsonl" for i in range(2)]

    def two_processes(signal_step: int) -> int:
        meet = {"coordinator": f"127.0.0.1:{free_port()}", "processes": 2, "devices": 4}
        meet["quickly"] = True
        stop = [{}, {"signal_step": signal_step, "signal": "SIGTERM"}]
        both = [
            start(
                **orders(tmp_path, data_dir, **meet, **stop[i])
                | {"process": i, "batches": str(files[i])}
            )
            for i in range(2)
        ]
        errors = finish_all(both)
        step, _ = newest(tmp_path / "run")
        assert signal_step <= step < STEPS
        assert all(f"Stopped by SIGTERM after step {step}" in text for text in errors)
        return step

    step = two_processes(5)
    kill = {"signal_step": step + 3, "devices": 4, "mesh": {"fsdp": 2, "tensor": 2}}
    kill["quickly"] = True
    run(expect=-signal.SIGKILL, **orders(tmp_path, data_dir, **kill))
    two_processes(step + 5)
    run(**orders(tmp_path, data_dir, devices=1, quickly=True))
    assert [len(lines(path)[0]["rows"]) for path in files] == [4, 4]
    drawn = batches(*files, tmp_path / "batches.jsonl")
    assert drawn == batches(straight / "batches.jsonl")
    name = "run/metrics.jsonl"
    assert_same_metrics(tmp_path / name, straight / name, rtol=1e-5)
