"""Whole runs on a GPU, in processes of their own. `make test-gpu`."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.training import processes, tiny

RUN = """
import dataclasses, sys
import jax
from tests.training import tiny
from ul2tune.training.run import train

arguments = tiny.arguments(*sys.argv[1:])
changes = {"dtype": "bfloat16", "attention": "cudnn", "remat": "dots"}
train(**arguments | {"model": dataclasses.replace(tiny.RUN_MODEL, **changes)})
assert jax.default_backend() == "gpu"
heavy = sorted({"tensorflow", "seqio"} & set(sys.modules))
assert not heavy, heavy
"""


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("data")
    tiny.write_data(path)
    return path


def test_a_run_needs_no_tensorflow(tmp_path, data_dir):
    command = [sys.executable, "-c", RUN, str(tmp_path / "run"), str(data_dir)]
    done = subprocess.run(command, cwd=processes.ROOT, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr[-4000:]
    assert (tmp_path / "run/checkpoints/6").is_dir()


def test_a_killed_run_resumes_to_the_last_bit(tmp_path, data_dir):
    """With XLA's nondeterministic operations excluded, as the README says."""
    environment = {
        "JAX_PLATFORMS": "cuda",
        "XLA_FLAGS": "--xla_gpu_exclude_nondeterministic_ops=true",
        "XLA_PYTHON_CLIENT_PREALLOCATE": "false",
    }

    def run(name: str, expect: int = 0, **more) -> None:
        orders = {
            "model_dir": str(tmp_path / name),
            "data_dir": str(data_dir),
            "batches": str(tmp_path / f"{name}.jsonl"),
            "devices": 1,
            "train_steps": 12,
        }
        worker = "tests.training.worker", json.dumps(orders | more)
        processes.finish(processes.launch(*worker, **environment), expect)

    run("straight")
    run("killed", -signal.SIGKILL, signal_step=7, signal_delay_secs=0.05)
    run("killed")
    found, expected = tmp_path / "killed", tmp_path / "straight"
    assert (found / "metrics.jsonl").read_bytes() == (expected / "metrics.jsonl").read_bytes()
    (step, meta), (_, expected_meta) = processes.newest(found), processes.newest(expected)
    assert step == 12
    assert meta["leaves"] == expected_meta["leaves"]
