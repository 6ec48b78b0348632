"""Small valid models of Transformers (from the goldens), to be damaged by tests."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ul2tune.convert.hf import folder as hf_folder
from ul2tune.convert.safetensors_io import DTYPES, Entry, write_file

GOLDENS = Path(__file__).with_name("goldens")
# One float32 file; bfloat16 in several files.
T5_1_0, FLAN_T5 = (GOLDENS / "t5" / name / "model" for name in ("t5_1_0", "flan_t5"))


def copy(source: Path, target: Path) -> Path:
    shutil.copytree(source, target)
    return target


def dtype_name(dtype: np.dtype) -> str:
    """``"BF16"`` for bfloat16, and so on."""
    return next(name for name, known in DTYPES.items() if known == dtype)


def tensors(folder: Path) -> dict[str, np.ndarray]:
    opened = hf_folder.open_folder(folder)
    return {name: opened.read(name) for name in opened.names}


def write(folder: Path, arrays: Mapping[str, np.ndarray], name: str = hf_folder.WEIGHTS) -> None:
    """Replaces (or adds) one safetensors file."""
    entries = [Entry(name=n, dtype=dtype_name(x.dtype), shape=x.shape) for n, x in arrays.items()]
    (folder / name).unlink(missing_ok=True)
    write_file(folder / name, entries, lambda entry: arrays[entry.name], {"format": "pt"})


def edit_config(folder: Path, **values: Any) -> None:
    """Sets fields of config.json; None removes one."""
    path = folder / hf_folder.CONFIG
    config = {**json.loads(path.read_text()), **values}
    path.write_text(json.dumps({k: v for k, v in config.items() if v is not None}))
