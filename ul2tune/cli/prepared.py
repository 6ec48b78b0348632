"""Preparing what a run does not find: in a child process, so no TensorFlow in the trainer."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Sequence

from ul2tune.data import manifest

POLL_SECS = 2.0


def prepare_missing(
    *,
    mixture: str,
    modules: Sequence[str],
    data_dir: str,
    splits: Sequence[str] = ("train", "validation"),
    num_workers: int = 0,
    process_index: int = 0,
) -> None:
    """Runs `ul2tune prepare` for the splits that are not there; processes but 0 wait for it.

    Args:
      mixture: SeqIO task or mixture.
      modules: modules that register it; imported by the child only.
      data_dir: where prepared data lives; shared by all processes.
      splits: splits the run reads.
      num_workers: processes that prepare; 0 chooses.
      process_index: which process of the run this is.

    Raises:
      ValueError: if preparing failed (its own message is above, on stderr).
    """
    missing = missing_splits(mixture, data_dir, splits)
    if not missing:
        return
    if process_index != 0:
        while missing_splits(mixture, data_dir, splits):
            time.sleep(POLL_SECS)
        return
    print(f"Preparing {mixture} ({', '.join(missing)}) in {data_dir} …", flush=True)
    values = {
        "MIXTURE_OR_TASK_NAME": mixture,
        "TASK_MODULES": tuple(modules),
        "DATA_DIR": data_dir,
        "PREPARE_SPLITS": tuple(missing),
        "PREPARE_WORKERS": num_workers,
    }
    flags = [f"--gin.{name}={value!r}" for name, value in values.items()]
    command = [sys.executable, "-m", "ul2tune", "prepare", "--gin_file=runs/prepare.gin", *flags]
    status = subprocess.run(command, check=False).returncode
    if status:
        raise ValueError(
            f"{mixture} is not prepared in {data_dir}, and preparing it failed with exit status "
            f"{status} (its message is above)."
        )


def missing_splits(mixture: str, data_dir: str, splits: Sequence[str]) -> list[str]:
    """The splits that at least one task of the mixture lacks."""
    try:
        tasks = manifest.read_mixture(data_dir, mixture).tasks
    except FileNotFoundError:
        return list(splits)
    return [
        split
        for split in splits
        if not all(
            (manifest.task_dir(data_dir, task, split) / "manifest.json").exists() for task in tasks
        )
    ]
