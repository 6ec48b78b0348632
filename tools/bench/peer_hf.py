"""Our training step beside Hugging Face Transformers' on PyTorch, taking turns on one machine.

    python -m venv /tmp/torch && /tmp/torch/bin/pip install torch transformers
    python tools/bench/peer_hf.py --peer_python=/tmp/torch/bin/python \
        --gin_file=tools/bench/t5_1_1_d256.gin --inputs=256 --targets=64 --batch=8

The same model, lengths, batch, precision and optimiser (Adafactor); each side is a process of its
own. Steps alternate, so that whatever else the machine does hits both. Prints one JSON line: the
medians, and `ratio` = their time / our time (above 1: we are faster).
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from step import Bench, Shape, arguments_of, parse_values

from ul2tune.cli import allocator

WORKER = Path(__file__).with_name("hf_worker.py")


class Peer:
    """PyTorch, in a process of its own."""

    def __init__(self, python: str, request: dict[str, Any]):
        self.process = subprocess.Popen(
            [python, str(WORKER)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.ready = self.ask(request)["ready"]

    def ask(self, request: Any) -> Any:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline()
        if not answer:
            sys.exit(
                f"{WORKER.name} ended with status {self.process.wait()}; see its output above."
            )
        return json.loads(answer)

    def run(self) -> tuple[float, float]:
        return tuple(self.ask("step"))

    def close(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()


def medians(times: list[tuple[float, float]]) -> dict[str, float]:
    wall, cpu = zip(*times)
    return {
        "step_ms": round(1e3 * statistics.median(wall), 2),
        "fastest_step_ms": round(1e3 * min(wall), 2),
        "cpu_ms": round(1e3 * statistics.median(cpu), 2),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description="Ours and Transformers' training step, in turns.")
    parser.add_argument("--peer_python", default=sys.executable, help="a Python that has torch")
    parser.add_argument("--gin_file", action="append", required=True)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--inputs", type=int, default=256)
    parser.add_argument("--targets", type=int, default=64)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--eager", action="store_true", help="without torch.compile")
    options, rest = parser.parse_known_args()
    shape = Shape(batch=options.batch, inputs=options.inputs, targets=options.targets)
    arguments = arguments_of(options.gin_file, parse_values(parser, rest), shape)
    request = {
        "model": vars(arguments["model"]),
        "shape": vars(shape),
        "z_loss": arguments["loss"].z_loss,
        "compile": not options.eager,
    }
    peer = Peer(options.peer_python, request)
    allocator.keep_freed_memory()  # as `ul2tune train` does
    bench = Bench(arguments, shape)
    for _ in range(3):
        bench.run()
    ours, theirs = [], []
    for _ in range(options.steps):
        for run, times in ((bench.run, ours), (peer.run, theirs)):
            times.append(run())
            time.sleep(0.05)  # idle threads of the one stop spinning before the other starts
    peer.close()
    result: dict[str, Any] = {"ours": medians(ours), "theirs": medians(theirs)}
    for kind in ("step_ms", "fastest_step_ms", "cpu_ms"):
        result[f"ratio_{kind}"] = round(result["theirs"][kind] / result["ours"][kind], 3)
    print(json.dumps({**result, "peer": peer.ready, **request}), flush=True)


if __name__ == "__main__":
    main()
