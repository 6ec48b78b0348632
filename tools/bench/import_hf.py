"""Peak memory of `ul2tune import hf` and `export hf` on a random model of several gigabytes.

    python tools/bench/import_hf.py [--layers=9] [--dtype=F32] [--dir=/tmp]

Writes a T5 1.1 of XL's width (4.6 GB with 9 + 9 layers in float32) into a temporary folder without
ever holding it, converts it there and back in child processes, and prints one JSON line: bytes, the
largest tensor, peak resident memory of each child beyond it, seconds, and whether the tensors came
back bit for bit. Needs about four times the model's size of disk.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from ul2tune import tree
from ul2tune.convert.hf import folder as hf_folder
from ul2tune.convert.hf import models as hf
from ul2tune.convert.hf.t5 import T5Family
from ul2tune.convert.safetensors_io import DTYPES, Entry
from ul2tune.models import base
from ul2tune.models.t5 import T5Config

ROOT = Path(__file__).resolve().parents[2]
LIMIT_BYTES = 10**9  # beyond the largest tensor


def entries_of(config: T5Config, dtype: str) -> list[Entry]:
    """All tensors, in Transformers' names and shapes."""
    shapes = tree.flatten(base.abstract_params(config))
    found = []
    for leaf in T5Family().leaves(config, {}):
        theirs = hf.their_shape(leaf, shapes[leaf.path].shape)
        found += [Entry(name=name, dtype=dtype, shape=theirs) for name in leaf.names]
    return found


def random_tensor(entry: Entry) -> np.ndarray:
    rng = np.random.default_rng(zlib.crc32(entry.name.encode()))
    value = rng.standard_normal(entry.shape, np.float32)
    value *= 0.02
    return value.astype(DTYPES[entry.dtype], copy=False)


def child(*arguments: str) -> dict[str, Any]:
    """Runs `ul2tune …`; its peak resident memory (of the largest process) and seconds."""
    start = time.monotonic()
    command = [sys.executable, "-m", "ul2tune", *arguments]
    process = subprocess.Popen(command, cwd=ROOT)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != 0:
        sys.exit(f"{' '.join(command)} failed.")
    return {"peak_bytes": usage.ru_maxrss * 1024, "seconds": round(time.monotonic() - start, 1)}


def equal(a: Path, b: Path) -> bool:
    """Whether two folders hold the same tensors, bit for bit."""
    first, second = hf_folder.open_folder(a), hf_folder.open_folder(b)
    return set(first.names) == set(second.names) and all(
        first.info(name).dtype == second.info(name).dtype
        and np.array_equal(first.read(name).view(np.uint8), second.read(name).view(np.uint8))
        for name in first.names
    )


def main() -> None:
    parser = argparse.ArgumentParser(description="Peak memory of importing and exporting.")
    parser.add_argument("--layers", type=int, default=9, help="of each stack")
    parser.add_argument("--dtype", choices=("F32", "BF16", "F16"), default="F32")
    parser.add_argument("--dir", help="where to make the temporary folder")
    options = parser.parse_args()
    config = T5Config(
        vocab_size=32128,
        d_model=2048,
        d_kv=64,
        d_ff=5120,
        num_heads=32,
        num_encoder_layers=options.layers,
        num_decoder_layers=options.layers,
    )
    entries = entries_of(config, options.dtype)
    largest = max(entry.num_bytes for entry in entries)
    with tempfile.TemporaryDirectory(dir=options.dir) as folder:
        model, imported, exported = (Path(folder) / name for name in ("model", "ours", "back"))
        model.mkdir()
        hf_folder.write_json(model / hf_folder.CONFIG, T5Family().config_to_hf(config, {}))
        hf_folder.write_weights(model, entries, random_tensor, 2 * 10**9)
        result: dict[str, Any] = {
            "model_bytes": sum(entry.num_bytes for entry in entries),
            "largest_tensor_bytes": largest,
            "import": child("import", "hf", str(model), str(imported)),
            "export": child("export", "hf", str(imported), str(exported)),
            "bit_equal": equal(model, exported),
        }
    for command in ("import", "export"):
        beyond = result[command]["peak_bytes"] - largest
        result[command]["beyond_largest_tensor"] = beyond
        result[command]["within_limit"] = beyond <= LIMIT_BYTES
    result["own_peak_bytes"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(json.dumps(result), flush=True)


if __name__ == "__main__":
    main()
