"""Who runs the shards: this process, a pool of processes, or Apache Beam.

All three call :func:`ul2tune.prepare.shards.write_shard`; finished shards are skipped by it, so
any of them can go on where another was stopped. They yield the number of a shard that is done, and
its receipt, as they come.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib
import multiprocessing
import os
import shlex
import signal
import threading
from collections.abc import Collection, Generator, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from typing import Any

import seqio

from ul2tune import signal_handlers
from ul2tune.portable_error import portable
from ul2tune.prepare.plan import Plan, make_plan
from ul2tune.prepare.progress import Progress
from ul2tune.prepare.shards import Receipt, write_shard
from ul2tune.prepare.silence import silent
from ul2tune.prepare.task_modules import import_modules

# A worker imports TensorFlow, which takes as long as tokenizing some ten megabytes.
_BYTES_PER_WORKER = 16 * 2**20
_POLL_SECS = 0.2
Finished = Generator[tuple[int, Receipt]]


@dataclass(frozen=True, kw_only=True)
class Work:
    """One shard as names and numbers, for another process or machine."""

    modules: tuple[str, ...]
    task: str
    split: str
    num_shards: int
    fingerprint: str
    shard: int
    data_dir: str
    max_rejected_fraction: float

    def run(self, on_progress=lambda *_: None) -> Receipt:
        """Imports the task's modules and makes the shard.

        Raises:
          ValueError: if the task is not the same here as where the work was planned.
        """
        plan = _plan(dataclasses.replace(self, shard=0))  # the same for all shards: made once
        if plan.fingerprint != self.fingerprint:
            raise ValueError(
                f"Task {self.task!r} is another one in this process than where it was planned "
                f"({plan.fingerprint} here, {self.fingerprint} there): its code or files changed "
                "meanwhile, or differ between machines. Run again."
            )
        return write_shard(plan, self.shard, self.data_dir, on_progress)


@functools.lru_cache(maxsize=1)
def _plan(work: Work) -> Plan:
    """The plan, made once per process: hashing the input again for every shard would be slow."""
    import_modules(work.modules)
    task = seqio.TaskRegistry.get(work.task)
    return make_plan(task, work.split, work.num_shards, work.max_rejected_fraction)


def works(plan: Plan, modules: Sequence[str], data_dir: str) -> list[Work]:
    """One per shard."""
    return [
        Work(
            modules=tuple(modules),
            task=plan.task.name,
            split=plan.split,
            num_shards=plan.num_shards,
            fingerprint=plan.fingerprint,
            shard=shard,
            data_dir=data_dir,
            max_rejected_fraction=plan.max_rejected_fraction,
        )
        for shard in range(plan.num_shards)
    ]


def choose_num_workers(num_workers: int, num_shards: int, num_bytes: int | None) -> int:
    """Processes to use; 0 asks for what the machine and the corpus make worthwhile."""
    if num_workers < 0:
        raise ValueError(f"num_workers must not be negative, got {num_workers}.")
    if num_workers == 0:
        num_workers = len(os.sched_getaffinity(0))
        if num_bytes is not None:
            num_workers = min(num_workers, 1 + num_bytes // _BYTES_PER_WORKER)
    return max(1, min(num_workers, num_shards))


def run_here(plans: Sequence[Plan], data_dir: str, progress: Progress) -> Finished:
    """All shards in this process, one after the other."""
    shards = [(plan, shard) for plan in plans for shard in range(plan.num_shards)]
    for number, (plan, shard) in enumerate(shards):
        receipt = write_shard(plan, shard, data_dir, progress.add)
        progress.finish_shard()
        yield number, receipt


def run_in_processes(items: Sequence[Work], num_workers: int, progress: Progress) -> Finished:
    """Shards over a pool of spawned processes (TensorFlow does not survive a fork).

    Raises:
      ValueError: if a process dies. Whatever ends this, what is finished stays finished, and what
        is not is given up.
    """
    context = multiprocessing.get_context("spawn")
    counters = [context.Value("q", 0) for _ in range(3)]
    stopped = context.RawValue("b", False)
    pool = ProcessPoolExecutor(
        num_workers,
        mp_context=context,
        initializer=signal_handlers.import_and_call,
        initargs=(__name__, start_worker.__name__, counters, stopped),
    )
    try:
        with signal_handlers.children_hold_back(signal.SIGINT):  # they start here
            futures = {pool.submit(_work, item): number for number, item in enumerate(items)}
        for future in _watch(futures, counters, progress):
            receipt = future.result()
            progress.finish_shard()
            yield futures[future], receipt
    except BrokenProcessPool as error:
        raise ValueError(
            "A process that prepared data was killed, likely for lack of memory. Run again with a "
            "smaller num_workers; finished shards are kept."
        ) from error
    finally:
        # Shards under way end at once: by an error, of which the user waits to hear; or by an
        # interrupt, which may have come to this process alone.
        stopped.value = True
        pool.shutdown(cancel_futures=True)


def _watch(
    futures: Collection[Future], counters: list[Any], progress: Progress
) -> Iterator[Future]:
    """Shows the workers' counters until all is done; yields what is, a failure after the others."""
    seen, pending = [0, 0, 0], set(futures)
    while pending:
        done, pending = wait(pending, timeout=_POLL_SECS)
        now = [counter.value for counter in counters]
        progress.add(*(new - old for new, old in zip(now, seen, strict=True)))
        seen = now
        yield from sorted(done, key=lambda future: future.exception() is not None)


class _Worker:
    """One of the processes. SIGINT ends its shard, and all that would come after it: the pool hands
    out more than is being made."""

    def __init__(self, counters: list[Any], stopped: Any):
        self.counters, self.stopped, self.is_making = counters, stopped, False
        if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:  # as under nohup
            signal.signal(signal.SIGINT, self._stop)

    def make(self, item: Work) -> Receipt:
        with silent(1, 2):  # what they print was printed once already, where the work was planned
            import_modules(item.modules)
        self.is_making = True
        try:
            self._check()
            return item.run(self._add)
        finally:
            self.is_making = False

    def _add(self, *numbers: int) -> None:
        self._check()
        for counter, number in zip(self.counters, numbers, strict=True):
            with counter.get_lock():
                counter.value += number

    def _check(self) -> None:
        if self.stopped.value:
            raise KeyboardInterrupt

    def _stop(self, *_: Any) -> None:
        self.stopped.value = True
        if self.is_making:
            self.is_making = False  # clearing up is not interrupted
            raise KeyboardInterrupt


_workers: list[_Worker] = []  # one, in a worker


def start_worker(counters: list[Any], stopped: Any) -> None:
    """Called in each of the processes."""
    _workers[:] = [_Worker(counters, stopped)]
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """A killed parent has lost the folder's lock: its workers must not go on writing."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _work(item: Work) -> Receipt:
    (worker,) = _workers
    try:
        return worker.make(item)
    except Exception as error:
        raise portable(error)  # noqa: B904  or the pool takes this process for killed


def run_on_beam(items: Sequence[Work], flags: str, progress: Progress) -> Finished:
    """Shards over Apache Beam. The data folder must be one that all workers write to.

    Args:
      items: the shards.
      flags: Beam's pipeline options (``"--runner=FlinkRunner --flink_master=…"``); none is Beam's
        local runner.
      progress: is told when all is done; Beam shows the way there itself.

    Raises:
      ValueError: if apache_beam is not installed.
    """
    try:
        # By name, so that pyright does not miss this optional extra.
        beam = importlib.import_module("apache_beam")
        module = importlib.import_module("apache_beam.options.pipeline_options")
    except ImportError as error:
        raise ValueError(
            'runner="beam" needs apache_beam: `pip install "ul2tune[prepare,beam]"`, in an '
            'environment of its own, or use runner="processes".'
        ) from error
    options = module.PipelineOptions(shlex.split(flags), save_main_session=False)
    with beam.Pipeline(options=options) as pipeline:
        _ = (
            pipeline
            | "Shards" >> beam.Create(list(items))
            | "Spread" >> beam.Reshuffle()
            | "Write" >> beam.Map(Work.run)
        )
    # Workers return nothing: the shards are there, so this only reads their receipts.
    for number, item in enumerate(items):
        receipt = item.run(progress.add)
        progress.finish_shard()
        yield number, receipt
