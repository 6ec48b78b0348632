"""Starting processes of the tests' own and reading what they left."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tests import compiling

ROOT = Path(__file__).resolve().parents[2]
# Far beyond what any of them needs, also where the other workers have the cores.
HANGS_SECS = 600


def start(*, quickly: bool = False, **orders: Any) -> subprocess.Popen[str]:
    """Starts one `tests.training.worker`; `quickly` is how it compiles, see `compiling`."""
    environment = compiling.environment() if quickly else {}
    return launch("tests.training.worker", json.dumps(orders), **environment)


def launch(module: str, *arguments: str, **environment: str) -> subprocess.Popen[str]:
    """Starts ``python -m module``; its compilations are shared with other tests' through the cache.

    It writes to files: a pipe that nobody empties while another process is waited for would stop
    it, and with it the other.
    """
    environment = {
        **os.environ,
        "JAX_PLATFORMS": "cpu",
        "JAX_COMPILATION_CACHE_DIR": str(ROOT / ".cache" / "jax"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.2",
        **environment,
    }
    output = tempfile.TemporaryFile("w+")  # noqa: SIM115 - read and closed by `finish`
    process = subprocess.Popen(
        [sys.executable, "-X", "faulthandler", "-m", module, *arguments],
        cwd=ROOT,
        env=environment,
        text=True,
        stdout=output,
        stderr=subprocess.STDOUT,
    )
    process.stdout = output  # type: ignore[assignment]
    return process


def finish(process: subprocess.Popen[str], expect: int = 0) -> str:
    """Waits; returns what the worker wrote. One that hangs is ended and shows where it hung.

    Raises:
      AssertionError: if the exit status is not the expected one.
    """
    try:
        process.wait(timeout=HANGS_SECS)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGABRT)  # the fault handler prints all threads' stacks
        process.wait(timeout=30)
    assert process.stdout is not None
    with process.stdout as file:
        file.seek(0)
        written = file.read()
    assert process.returncode == expect, f"exit {process.returncode}\n{written[-8000:]}"
    return written


def finish_all(started: Sequence[subprocess.Popen[str]], expect: int = 0) -> list[str]:
    """:func:`finish` for processes that wait for each other; none is left when one failed."""
    try:
        return [finish(process, expect) for process in started]
    finally:
        for process in started:
            process.kill()
            assert process.stdout is not None
            process.stdout.close()


def run(expect: int = 0, **orders: Any) -> str:
    return finish(start(**orders), expect)


def free_port() -> int:
    """A port for a coordinator that is still to be started.

    It stays bound to this process, so that nobody who asks for any port is given it. Nobody listens
    here: the coordinator's server can share it, because it sets SO_REUSEPORT too.
    """
    with socket.socket() as holder:
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        holder.bind(("127.0.0.1", 0))
        port = holder.getsockname()[1]
        holder.detach()  # open until this process ends
    return port


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def batches(*paths: Path) -> dict[int, dict[str, str]]:
    """Row hashes by batch number, merged over processes and restarts.

    Raises:
      AssertionError: if one batch was drawn twice and differed.
    """
    merged: dict[int, dict[str, str]] = {}
    for path in paths:
        for line in lines(path):
            rows = merged.setdefault(line["batch"], {})
            for row, digest in line["rows"].items():
                assert rows.setdefault(row, digest) == digest, (line["batch"], row)
    return merged


def assert_same_metrics(found: Path, expected: Path, rtol: float) -> None:
    """The same lines up to rounding."""
    a, b = lines(found), lines(expected)
    assert [line["step"] for line in a] == [line["step"] for line in b]
    for x, y in zip(a, b):
        assert x.keys() == y.keys()
        for name in x:
            np.testing.assert_allclose(
                x[name], y[name], rtol=rtol, atol=1e-6, err_msg=f"{x['step']} {name}"
            )


def newest(model_dir: Path) -> tuple[int, dict[str, Any]]:
    """Step and fingerprinted leaves of the newest checkpoint."""
    steps = [int(p.name) for p in (model_dir / "checkpoints").iterdir() if p.name.isdigit()]
    meta = json.loads((model_dir / "checkpoints" / str(max(steps)) / "meta/metadata").read_text())
    return max(steps), meta
