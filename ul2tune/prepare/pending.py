"""The shards that `prepare` has to make, of all tasks of a mixture, by one set of processes: a
collection has a thousand tasks of one shard each. A task's manifest is written as soon as its own
shards are there, so a rerun goes on where the last one stopped."""

from __future__ import annotations

import contextlib
from collections.abc import Generator, Iterable, Iterator, Sequence
from typing import Any

import seqio

from ul2tune.prepare import inputs, runners
from ul2tune.prepare.manifests import title
from ul2tune.prepare.plan import Plan
from ul2tune.prepare.progress import Progress
from ul2tune.prepare.shards import Receipt
from ul2tune.prepare.sources import DocumentSource

BEAM = "beam"
# How many bytes of a collection's files take as long as one of text, of which all is tokenized, and
# how many of text as long as opening and closing a shard: 60 tasks of 2.3 MB, of which 100 records
# each are used, take 9 s, as 30 MB of text, and 1,400 of 0.2 MB take 104 s. To be worth it, a
# process has to save more than that: half is counted.
_RECORD_BYTES = 32
_SHARD_BYTES = 2**17


def make(
    plans: Sequence[Plan],
    mixture: str,
    modules: tuple[str, ...],
    data_dir: str,
    num_workers: int,
    runner: str,
) -> Generator[tuple[Plan, list[Receipt]]]:
    """Makes what is missing of the plans' shards; yields each plan when all of its shards are done,
    with their receipts in order. Plans without shards come first.

    Args:
      plans: a split of a task each.
      mixture: what they belong to, for the progress line.
      modules, data_dir, num_workers, runner: as for `ul2tune.prepare.run.prepare`.
    """
    yield from ((plan, []) for plan in plans if not plan.num_shards)
    plans = [plan for plan in plans if plan.num_shards]
    if not plans:
        return
    num_shards = sum(plan.num_shards for plan in plans)
    progress = Progress(
        title=title(plans[0]) if len(plans) == 1 else mixture,
        num_shards=num_shards,
        total_bytes=_total_bytes(plans),
    )
    workers = runners.choose_num_workers(num_workers, num_shards, _input_bytes(plans))
    if not runner.startswith(BEAM) and workers == 1:
        found = runners.run_here(plans, data_dir, progress)
    else:
        items = [work for plan in plans for work in runners.works(plan, modules, data_dir)]
        if runner.startswith(BEAM):
            found = runners.run_on_beam(items, runner.removeprefix(BEAM), progress)
        else:
            found = runners.run_in_processes(items, workers, progress)
    with contextlib.closing(found):
        yield from _by_plan(plans, found)
    progress.close()


def _by_plan(
    plans: Sequence[Plan], found: Iterable[tuple[int, Receipt]]
) -> Iterator[tuple[Plan, list[Receipt]]]:
    """Gathers numbered receipts of all plans' shards, whatever order they come in."""
    owners = [number for number, plan in enumerate(plans) for _ in range(plan.num_shards)]
    left = [plan.num_shards for plan in plans]
    receipts: list[dict[int, Receipt]] = [{} for _ in plans]
    for position, receipt in found:
        owner = owners[position]
        receipts[owner][position] = receipt
        left[owner] -= 1
        if not left[owner]:
            yield plans[owner], [receipts[owner][number] for number in sorted(receipts[owner])]
            receipts[owner] = {}


def _total_bytes(plans: Sequence[Plan]) -> int | None:
    """What all shards together read, where their sources count what they read."""
    sources: list[Any] = [plan.task.source for plan in plans]
    if not all(isinstance(source, DocumentSource) for source in sources):
        return None
    return sum(source.corpus.num_bytes() for source in sources)


def _input_bytes(plans: Sequence[Plan]) -> int | None:
    """The size of the text that would take as long as the plans, as far as the files behind them
    are known here; None if they are not for one that has several shards."""
    total = 0
    for plan in plans:
        source = plan.task.source
        size = inputs.num_bytes(source, plan.split)
        if size is None and plan.num_shards > 1:
            return None
        is_text = isinstance(source, DocumentSource | seqio.FileDataSource)
        total += (size or 0) // (1 if is_text else _RECORD_BYTES) + plan.num_shards * _SHARD_BYTES
    return total
