"""Preparing what a run does not find, or finds made from something else: in a child process, so no
TensorFlow in the trainer."""

from __future__ import annotations

import importlib.util
import logging
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

import jax

from ul2tune.checkpoints import agreement
from ul2tune.data import manifest, stamp
from ul2tune.data.documents import MAX_REJECTED_FRACTION

POLL_SECS = 2.0
_MAX_TOLD = 5

log = logging.getLogger(__name__)


def prepare_missing(
    *,
    mixture: str,
    modules: Sequence[str],
    data_dir: str,
    splits: Sequence[str] = ("train", "validation"),
    num_workers: int = 0,
    max_rejected_fraction: float = MAX_REJECTED_FRACTION,
    process_index: int = 0,
    resumes: bool = False,
) -> None:
    """Runs `ul2tune prepare` for the splits that are not there, or whose task, vocabulary or text
    changed since; processes but 0 wait for it.

    Where only something changed, what is there is used as it is, with a warning, if the run resumes
    (it goes on with the data that it began with) or if nothing can be prepared here.

    Args:
      mixture: SeqIO task or mixture.
      modules: modules that register it; imported by the child only.
      data_dir: where prepared data lives; shared by all processes.
      splits: splits the run reads.
      num_workers: processes that prepare; 0 chooses.
      max_rejected_fraction: more malformed records than this are an error.
      process_index: which process of the run this is.
      resumes: whether the run has begun to train on what is there.

    Raises:
      ValueError: if preparing failed (its own message is above, on stderr).
    """
    missing = missing_splits(mixture, data_dir, splits)
    before = _version(mixture, data_dir)
    changed = _agreed_changes(mixture, modules, data_dir, [s for s in splits if s not in missing])
    if changed and (resumes or importlib.util.find_spec("seqio") is None):
        why = "this run began with it" if resumes else "seqio is not installed here"
        log.warning("%s It is used as it is: %s.", _told(mixture, data_dir, changed), why)
        changed = {}
    wanted = [split for split in splits if split in missing or split in changed]
    if not wanted:
        return
    if process_index != 0:
        while missing_splits(mixture, data_dir, splits) or (
            changed and _version(mixture, data_dir) == before
        ):
            time.sleep(POLL_SECS)
        return
    if changed:
        print(_told(mixture, data_dir, changed), flush=True)
    print(f"Preparing {mixture} ({', '.join(wanted)}) in {data_dir} …", flush=True)
    values = {
        "MIXTURE_OR_TASK_NAME": mixture,
        "TASK_MODULES": tuple(modules),
        "DATA_DIR": data_dir,
        "PREPARE_SPLITS": tuple(wanted),
        "PREPARE_WORKERS": num_workers,
        "PREPARE_MAX_REJECTED": max_rejected_fraction,
    }
    status = _prepare(values)
    if status:
        told = _told(mixture, data_dir, changed) if changed else f"{data_dir} lacks {mixture}."
        raise ValueError(f"{told} Preparing it failed with exit status {status}, see above.")


def _prepare(values: Mapping[str, Any]) -> int:
    """Runs `ul2tune prepare` with these macros; returns its exit status."""
    flags = [f"--gin.{name}={value!r}" for name, value in values.items()]
    command = [sys.executable, "-m", "ul2tune", "prepare", "--gin_file=runs/prepare.gin", *flags]
    return subprocess.run(command, check=False).returncode


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


def changes(
    mixture: str, modules: Sequence[str], data_dir: str, splits: Sequence[str]
) -> dict[str, list[str]]:
    """By prepared split, what it was made from that is another now; splits without are left out."""
    stamps = manifest.read_mixture(data_dir, mixture).stamps if splits else {}
    found = {s: stamp.differences(stamps[s], modules) for s in splits if s in stamps}
    return {split: what for split, what in found.items() if what}


def _agreed_changes(
    mixture: str, modules: Sequence[str], data_dir: str, splits: Sequence[str]
) -> dict[str, list[str]]:
    """What process 0 finds: all must wait for the same."""

    def find() -> dict[str, list[str]]:
        return changes(mixture, modules, data_dir, splits)

    # The question would start devices, which `inspect` has no need of.
    return agreement.from_first(find) if jax.distributed.is_initialized() else find()


def _version(mixture: str, data_dir: str) -> tuple[int, int] | None:
    """Differs after `prepare` has run."""
    try:
        status = os.stat(manifest.mixture_path(data_dir, mixture))
    except FileNotFoundError:
        return None
    return status.st_ino, status.st_mtime_ns


def _told(mixture: str, data_dir: str, changed: Mapping[str, Sequence[str]]) -> str:
    found = list(dict.fromkeys(what for split in changed.values() for what in split))
    more = f" and {len(found) - _MAX_TOLD} more" if len(found) > _MAX_TOLD else ""
    return (
        f"{mixture} ({', '.join(changed)}) in {data_dir} was prepared before these changed: "
        f"{', '.join(found[:_MAX_TOLD])}{more}."
    )
