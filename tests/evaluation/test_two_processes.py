"""Two real processes write what one writes, to the last byte."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests import compiling
from tests.checkpoints import saving
from tests.decoding import tiny
from tests.evaluation import prepared
from tests.training.processes import ROOT, free_port

pytestmark = pytest.mark.slow
FILES = ("eval/predictions.jsonl", "eval/metrics.json", "out.jsonl")


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Data, a model and prompts."""
    path = tmp_path_factory.mktemp("all")
    prepared.write(path / "data")
    saving.save(path / "model", 1, {"params": tiny.params()})
    lines = [json.dumps({"prompt": f"say {'word ' * (i % 7)}{i}"}) + "\n" for i in range(9)]
    (path / "prompts.jsonl").write_text("".join(lines))
    (path / "other.jsonl").write_text("".join(reversed(lines)))
    return path


def run(
    folder: Path, *outputs: Path, prompts: tuple[str, ...] = (), eval: bool = False
) -> list[tuple[int, str]]:
    """Runs one process per output; returns exit statuses and what was written to stderr."""
    coordinator = f"127.0.0.1:{free_port()}"
    environment = {
        **os.environ,
        **compiling.environment(),
        "JAX_PLATFORMS": "cpu",
        "JAX_COMPILATION_CACHE_DIR": str(ROOT / ".cache" / "jax"),
    }
    children = []
    for index, output in enumerate(outputs):
        orders = {
            "folder": str(folder),
            "prompts": str(folder / (prompts or ("prompts.jsonl",) * len(outputs))[index]),
            "output": str(output),
            "index": index,
            "count": len(outputs),
            "coordinator": coordinator,
            "eval": eval,
        }
        output.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-m", "tests.evaluation.worker", json.dumps(orders)]
        with open(output / f"log{index}", "wb") as log:
            child = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=log, stderr=log)
        children.append(child)
    try:
        codes = [child.wait(timeout=240) for child in children]
    finally:
        for child in children:
            child.kill()
            child.wait()
    logs = [(output / f"log{index}").read_text() for index, output in enumerate(outputs)]
    return list(zip(codes, logs))


@pytest.fixture(scope="module")
def alone(folder) -> Path:
    output = folder / "one"
    ((code, log),) = run(folder, output, eval=True)
    assert code == 0, log
    return output


def test_two_processes_write_what_one_writes(folder, alone, tmp_path):
    for code, log in run(folder, tmp_path, tmp_path, eval=True):
        assert code == 0, log
    for name in FILES:
        assert (tmp_path / name).read_bytes() == (alone / name).read_bytes(), name


def test_they_go_on_without_a_common_disk(folder, alone, tmp_path):
    """The second process sees nothing of the output that the first one continues."""
    first, second = tmp_path / "first", tmp_path / "second"
    first.mkdir()
    whole = (alone / "out.jsonl").read_bytes()
    (first / "out.jsonl").write_bytes(whole[: len(whole) // 2])
    settings = (alone / "out.jsonl.settings.json").read_bytes()
    (first / "out.jsonl.settings.json").write_bytes(settings)
    for code, log in run(folder, first, second):
        assert code == 0, log
    assert (first / "out.jsonl").read_bytes() == whole
    assert [path.name for path in second.iterdir()] == ["log1"]


def test_a_refusal_and_other_prompts_end_both(folder, alone, tmp_path):
    first, second = tmp_path / "first", tmp_path / "second"
    first.mkdir()
    (first / "out.jsonl").write_bytes((alone / "out.jsonl").read_bytes())  # without its settings
    for code, log in run(folder, first, second):
        assert code == 1
        assert "exists and was not written by infer" in log
    third, fourth = tmp_path / "third", tmp_path / "fourth"
    (zero, _), (code, log) = run(folder, third, fourth, prompts=("prompts.jsonl", "other.jsonl"))
    assert (zero, code) == (1, 1)
    assert "The processes have different prompts" in log
