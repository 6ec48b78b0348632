"""Live parity with Transformers: all families, random weights, both directions.

    python tools/parity/run.py [--torch_python=/tmp/torch/bin/python] [--family=t5 …] [--seed=N]

For every family: Transformers writes random models and their answers, we import them and compare
(sub-modules, logits, gradients, greedy generation, round trip), and Transformers loads what we
exported and must compute the same numbers. `make parity` runs it in an environment of its own.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
# tools/parity/<family>.py holds a family's cases, ours_<family>.py how to run its sub-modules.
FAMILIES = ("t5", "decoder", "t5gemma")


def main() -> None:
    parser = argparse.ArgumentParser(description="Compares us with Transformers, live.")
    parser.add_argument(
        "--torch_python", default=sys.executable, help="a Python with torch and transformers"
    )
    parser.add_argument("--family", action="append", choices=FAMILIES)
    parser.add_argument("--seed", type=int, default=0, help="other weights and inputs")
    options = parser.parse_args()
    # The other Python need not know our package, only this folder.
    env = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "JAX_PLATFORMS": "cpu",
        "JAX_COMPILATION_CACHE_DIR": str(ROOT / ".cache" / "jax"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }
    failed = []

    def run(python: str, module: str, *arguments: str) -> None:
        command = [python, "-m", f"tools.parity.{module}", *arguments]
        if subprocess.run(command, cwd=ROOT, env=env).returncode != 0:
            failed.append(f"{module} {' '.join(arguments[:2])}")

    for family in options.family or FAMILIES:
        with tempfile.TemporaryDirectory(prefix="ul2tune-parity-") as folder:
            run(options.torch_python, "reference", "make", family, folder, f"--seed={options.seed}")
            run(sys.executable, "check", *map(str, sorted(Path(folder).iterdir())))
            run(options.torch_python, "reference", "verify", family, folder)
    sys.exit(f"Differs: {', '.join(failed)}" if failed else 0)


if __name__ == "__main__":
    main()
