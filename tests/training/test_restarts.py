"""Real processes, really killed: what a run leaves must not show how often it was interrupted."""

from __future__ import annotations

import random
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest

from tests.training import tiny
from tests.training.processes import (
    assert_same_metrics,
    batches,
    finish,
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


def test_kills_leave_no_trace(tmp_path, data_dir, straight):
    """kill -9 three times, at some moment of a step, a save or an evaluation."""
    rng = random.Random(0)
    steps = sorted(rng.sample(range(2, STEPS - 1), 3))
    for step in steps:
        delay = rng.uniform(0, 0.1)
        signals = {"signal_step": step, "signal_delay_secs": delay}
        run(expect=-signal.SIGKILL, **orders(tmp_path, data_dir, **signals))
    run(**orders(tmp_path, data_dir))
    found, expected = tmp_path / "run", straight / "run"
    assert (found / "metrics.jsonl").read_bytes() == (expected / "metrics.jsonl").read_bytes()
    # Fingerprints of all parameters and optimiser moments, stream states, counters: every bit.
    (_, meta), (_, expected_meta) = newest(found), newest(expected)
    for name in ("step", "leaves", "streams", "window", "config"):
        assert meta[name] == expected_meta[name], name
    assert batches(tmp_path / "batches.jsonl") == batches(straight / "batches.jsonl")


def test_resume_on_another_topology(tmp_path, data_dir, straight):
    """Killed on 8 devices (fsdp), resumed on 4 (fsdp x tensor) and then on one."""
    kill = {"signal_step": 7}
    run(expect=-signal.SIGKILL, **orders(tmp_path, data_dir, **kill))
    mesh = {"fsdp": 2, "tensor": 2}
    kill = {"signal_step": 13, "devices": 4, "mesh": mesh}
    run(expect=-signal.SIGKILL, **orders(tmp_path, data_dir, **kill))
    run(**orders(tmp_path, data_dir, devices=1))
    assert batches(tmp_path / "batches.jsonl") == batches(straight / "batches.jsonl")
    name = "run/metrics.jsonl"
    assert_same_metrics(tmp_path / name, straight / name, rtol=1e-5)


def test_sigterm_saves_exits_0_and_resumes(tmp_path, data_dir, straight):
    stopped = run(**orders(tmp_path, data_dir, signal_step=6, signal="SIGTERM"))
    assert "Stopped by SIGTERM after step 6" in stopped
    assert newest(tmp_path / "run")[0] == 6
    run(**orders(tmp_path, data_dir))
    name = "run/metrics.jsonl"
    assert (tmp_path / name).read_bytes() == (straight / name).read_bytes()
    assert newest(tmp_path / "run")[1]["leaves"] == newest(straight / "run")[1]["leaves"]


def test_two_processes_equal_one_and_stop_together(tmp_path, data_dir, straight):
    """2 processes x 4 devices: SIGTERM to the second alone stops both at one step; they resume."""
    files = [tmp_path / f"batches{i}.jsonl" for i in range(2)]

    def launch(**kwargs: Any) -> list[str]:
        meet = {"coordinator": f"127.0.0.1:{free_port()}", "processes": 2, "devices": 4}
        both = [
            start(
                **orders(tmp_path, data_dir, **meet)
                | {"process": i, "batches": str(files[i])}
                | (kwargs if i == 1 else {})
            )
            for i in range(2)
        ]
        return [finish(process) for process in both]

    errors = launch(signal_step=6, signal="SIGTERM")
    step = newest(tmp_path / "run")[0]
    assert 6 <= step < STEPS
    assert all(f"Stopped by SIGTERM after step {step}" in text for text in errors)
    shutil.copytree(tmp_path / "run", tmp_path / "copy")
    launch()
    name = "metrics.jsonl"
    assert_same_metrics(tmp_path / "run" / name, straight / "run" / name, rtol=1e-5)
    assert [len(lines(path)[0]["rows"]) for path in files] == [4, 4]
    assert batches(*files) == batches(straight / "batches.jsonl")
    # What two processes saved, one resumes.
    alone = orders(tmp_path, data_dir) | {"model_dir": str(tmp_path / "copy")}
    run(**alone)
    assert_same_metrics(tmp_path / "copy" / name, straight / "run" / name, rtol=1e-5)
    assert batches(*files, tmp_path / "batches.jsonl") == batches(straight / "batches.jsonl")
