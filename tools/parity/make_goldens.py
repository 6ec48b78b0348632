"""Writes tests/convert/goldens: what tests without torch compare with.

    python tools/parity/make_goldens.py FAMILY … [--torch_python=/tmp/torch/bin/python]

Rewrites the folders of the named families; the numbers change with the version of Transformers only
(and torch's rounding). A family takes at most 300 kB.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
GOLDENS = ROOT / "tests" / "convert" / "goldens"
MAX_BYTES = 300_000


def main() -> None:
    parser = argparse.ArgumentParser(description="Records answers of Transformers for tests.")
    parser.add_argument("families", nargs="+")
    parser.add_argument("--torch_python", default=sys.executable)
    options = parser.parse_args()
    for family in options.families:
        with tempfile.TemporaryDirectory() as folder:
            made = Path(folder) / family
            subprocess.run(
                [options.torch_python, "-m", "tools.parity.reference", "make", family, str(made)]
                + ["--only_goldens"],
                cwd=ROOT,
                env={**os.environ, "PYTHONPATH": str(ROOT)},
                check=True,
            )
            size = sum(path.stat().st_size for path in made.rglob("*") if path.is_file())
            if size > MAX_BYTES:
                sys.exit(f"{family} would take {size} bytes; at most {MAX_BYTES} are allowed.")
            shutil.rmtree(GOLDENS / family, ignore_errors=True)
            shutil.copytree(made, GOLDENS / family)
            print(f"{family}: {size} bytes in {GOLDENS / family}")


if __name__ == "__main__":
    main()
