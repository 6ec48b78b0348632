"""Preparing what a run does not find: in a child process, so no TensorFlow in the trainer. What is
there is never replaced: other runs may depend on it."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import logging
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax

from ul2tune.checkpoints import agreement
from ul2tune.cli import parent, termination
from ul2tune.data import manifest, stamp
from ul2tune.data.documents import MAX_REJECTED_FRACTION
from ul2tune.data.embedding_rows import ROWS
from ul2tune.data.manifest import MISSING, PREPARE
from ul2tune.feed.config import FEED, FeedConfig
from ul2tune.first_names import first_names
from ul2tune.signal_handlers import raise_ignored_interrupt

POLL_SECS = 2.0
# How long another host's view of a network file system may lag behind.
LAG_SECS = 60.0

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
    begins: bool = False,
) -> None:
    """Runs `ul2tune prepare` for the splits that are not there: in process 0; the others wait for
    it, and end with it if it fails. Collective.

    Where a split is there but its task, vocabulary or text changed since, a run that begins stops,
    and anything else uses it as it is, with a warning. Only `ul2tune prepare` replaces data.

    Args:
      mixture: SeqIO task or mixture.
      modules: modules that register it; imported by the child only.
      data_dir: where prepared data lives; shared by all processes.
      splits: splits the run reads.
      num_workers: processes that prepare; 0 chooses.
      max_rejected_fraction: more malformed records than this are an error.
      process_index: which process of the run this is.
      begins: whether a run is about to begin to train on it; that of process 0 counts.

    Raises:
      ValueError: if a run begins on data that changed, preparing failed (its own message is above,
        on the stderr of process 0), or a process does not see the data.
    """
    missing = _from_first(lambda: missing_splits(mixture, data_dir, splits))
    _tell_changes(mixture, modules, data_dir, [s for s in splits if s not in missing], begins)
    if missing and process_index == 0:
        print(f"Preparing {mixture} ({', '.join(missing)}) in {data_dir} …", flush=True)
    values = {
        "MIXTURE_OR_TASK_NAME": mixture,
        "TASK_MODULES": tuple(modules),
        "DATA_DIR": data_dir,
        "PREPARE_SPLITS": tuple(missing),
        "PREPARE_WORKERS": num_workers,
        "PREPARE_MAX_REJECTED": max_rejected_fraction,
    }
    status = _prepare(values) if missing else 0
    if status:
        told = "above" if process_index == 0 else "what process 0 printed"
        raise ValueError(
            f"DATA_DIR = {data_dir!r} lacks {mixture} ({', '.join(missing)}). Preparing it failed "
            f"with exit status {status}, see {told}. If it was prepared elsewhere, set DATA_DIR to "
            f"that folder or a copy of it."
        )
    if jax.distributed.is_initialized():
        _check_seen(mixture, data_dir, splits, LAG_SECS if missing else 0.0, process_index)


@contextlib.contextmanager
def for_run(*, model: Any = None, data: FeedConfig | None = None) -> Iterator[None]:
    """A block in which preparing is refused where the run could not read what is prepared: nobody
    should wait for data that is no use.

    Args:
      model: what reads it, which may have too few rows for the vocabulary; None: not known.
      data: how it is read: rows may be too short for the noise; None: not known.
    """
    told: dict[str, str] = {}
    if model is not None:
        told[ROWS] = str(model.vocab_size)
    if data is not None:
        told[FEED] = json.dumps(dataclasses.asdict(data))
    before = {name: os.environ.get(name) for name in told}
    os.environ.update(told)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _from_first(find: Callable[[], Any]) -> Any:
    """What process 0 finds, in all processes. A single process does not ask `agreement`, which
    would start JAX's devices: `inspect` does not need them."""
    return agreement.from_first(find) if jax.distributed.is_initialized() else find()


def _prepare(values: Mapping[str, Any]) -> int:
    """Runs `ul2tune prepare` with these macros, without replacing, in process 0; returns its exit
    status in all. The others poll process 0, as no collective operation may last for hours."""
    flags = [f"--gin.{name}={value!r}" for name, value in values.items()]
    command = [sys.executable, "-m", "ul2tune", "prepare", "--gin_file=runs/prepare.gin", *flags]
    child: subprocess.Popen[bytes] | None = None

    def ask() -> int | None:
        nonlocal child
        if child is None:
            environment = {**os.environ, PREPARE: MISSING, **parent.named()}
            child = subprocess.Popen(command, env=environment)
        try:
            return child.wait(timeout=POLL_SECS)
        except subprocess.TimeoutExpired:
            return None

    with termination.by_exception():  # or the child would go on without us
        try:
            while (status := _from_first(ask)) is None:
                raise_ignored_interrupt()
        finally:
            if child is not None:
                child.kill()
                child.wait()
    return status


def _check_seen(
    mixture: str, data_dir: str, splits: Sequence[str], patience_secs: float, process_index: int
) -> None:
    """Refuses a DATA_DIR that is not the same folder to all processes. Collective."""
    deadline = time.monotonic() + patience_secs
    with agreement.together():
        while missing := missing_splits(mixture, data_dir, splits):
            if time.monotonic() >= deadline:
                if process_index == 0:
                    raise ValueError(
                        f"{data_dir} lacks {mixture} ({', '.join(missing)}) although preparing it "
                        f"succeeded. Run `ul2tune prepare` by itself and read what it says."
                    )
                raise ValueError(
                    f"Process {process_index} does not find {mixture} ({', '.join(missing)}) in "
                    f"{data_dir}, which process 0 does: DATA_DIR must be one folder shared by all "
                    f"processes."
                )
            time.sleep(POLL_SECS)


def missing_splits(mixture: str, data_dir: str, splits: Sequence[str]) -> list[str]:
    """The splits that at least one task of the mixture lacks."""
    try:
        tasks = manifest.read_mixture(data_dir, mixture).all_tasks
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


def _tell_changes(
    mixture: str, modules: Sequence[str], data_dir: str, splits: Sequence[str], begins: bool
) -> None:
    """Warns of what changed, or stops a run that begins: in all processes as process 0 finds."""

    def find() -> tuple[dict[str, list[str]], list[str], bool]:
        found = changes(mixture, modules, data_dir, splits)
        return found, _stray(mixture, modules, data_dir, splits), begins

    changed, stray, begins = _from_first(find)
    if stray:
        log.warning(
            "TASK_MODULES: %s is not found, and %s in %s was prepared without it. The prepared "
            "data is used; if the name is misspelt, correct it.",
            first_names(stray),
            mixture,
            data_dir,
        )
    if not changed:
        return
    what = list(dict.fromkeys(name for split in changed.values() for name in split))
    told = (
        f"{mixture} ({', '.join(changed)}) in {data_dir} was prepared before these changed: "
        f"{first_names(what)}"
    )
    if begins:
        raise ValueError(
            f"{told}; run `ul2tune prepare` for {mixture}, which keeps what would be the same "
            "examples and replaces others for every run that reads them, or use another DATA_DIR."
        )
    log.warning("%s. It is used as it is; run `ul2tune prepare` to prepare it again.", told)


def _stray(mixture: str, modules: Sequence[str], data_dir: str, splits: Sequence[str]) -> list[str]:
    """Misspelt modules: prepared data needs none, so nothing else would notice."""
    stamps = manifest.read_mixture(data_dir, mixture).stamps if splits else {}
    found = [stamp.missing_modules(stamps[split], modules) for split in splits if split in stamps]
    return list(dict.fromkeys(name for split in found for name in split))
