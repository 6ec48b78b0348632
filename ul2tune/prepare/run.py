"""`prepare`: any registered SeqIO task or mixture -> tokenized, indexed shards and manifests.

    DATA_DIR/<task>/<split>/data-00000-of-00004-5eed5eed.arrayrecord, …, manifest.json
    DATA_DIR/<mixture>.mixture.json
    DATA_DIR/vocabularies/<fingerprint>.model

What is there and up to date is left alone: a rerun goes on where the last one stopped, and writes
nothing where nothing changed, so that read-only folders can be checked. With
UL2TUNE_PREPARE=missing nothing is replaced: data of another task, vocabulary or text is then an
error.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import seqio

from ul2tune.data import manifest, stamp
from ul2tune.data.documents import MAX_REJECTED_FRACTION
from ul2tune.data.embedding_rows import ROWS
from ul2tune.data.manifest import MixtureManifest
from ul2tune.data.rates import flat
from ul2tune.first_names import first_names
from ul2tune.prepare import inputs, pending
from ul2tune.prepare.folder import Access, hold
from ul2tune.prepare.manifests import finish, title, up_to_date, write_mixture
from ul2tune.prepare.plan import Plan, check_one_vocabulary, find_tasks, make_plan
from ul2tune.prepare.rates import mixture_share
from ul2tune.prepare.task_modules import import_modules
from ul2tune.status_line import StatusLine, say

# `ul2tune train` asks for both whether it reads them or not, so a mixture may lack one of them.
_USUAL_SPLITS = ("train", "validation")
# So many tasks and splits have a line each that says that they are up to date.
_MOST_LINES = 20


def prepare(
    mixture: str,
    modules: Sequence[str],
    data_dir: str,
    splits: Sequence[str] = _USUAL_SPLITS,
    num_shards: int | None = None,
    num_workers: int = 0,
    max_rejected_fraction: float = MAX_REJECTED_FRACTION,
    runner: str = "processes",
) -> None:
    """Prepares every task of a mixture.

    Args:
      mixture: name of a SeqIO task or mixture.
      modules: Python modules whose import registers it.
      data_dir: where prepared data lives: a local or mounted folder.
      splits: SeqIO splits. A task without one of them gets an empty manifest for it, as SeqIO
        leaves such a task out of a mixture. One that no task has is refused, but for ``train`` or
        ``validation`` beside the other.
      num_shards: per task and split; None chooses by the size of the input alone.
      num_workers: processes; 1 works in this one, 0 chooses by machine and size.
      max_rejected_fraction: more malformed records than this are an error.
      runner: ``"processes"``, or ``"beam"`` followed by Beam's pipeline options.

    Raises:
      ValueError: on anything wrong with the tasks, their files or these arguments.
    """
    _check_arguments(data_dir, num_shards, max_rejected_fraction, runner)
    import_modules(modules)
    tasks, splits = find_tasks(mixture), tuple(dict.fromkeys(splits))
    _check_splits(mixture, tasks, splits, data_dir)
    rows = os.environ.get(ROWS)
    with hold(Path(data_dir)) as access:
        check_one_vocabulary(mixture, tasks, int(rows) if rows else None)
        made_from = stamp.make(modules, {path for task in tasks for path in inputs.paths(task)})
        missing, counts = _compare(
            mixture, tasks, splits, num_shards, max_rejected_fraction, access
        )
        work = pending.make(missing, mixture, tuple(modules), data_dir, num_workers, runner)
        with contextlib.closing(work) as made:  # what is begun ends with an error
            for plan, receipts in made:
                found = finish(plan, receipts, access)
                counts[found.task, found.split] = found.num_examples
        if "train" not in splits:
            counts |= {(t.name, "train"): _num_examples(t.name, "train", data_dir) for t in tasks}
        if not any(counts.values()):
            raise ValueError(_no_examples(mixture, tasks, splits, data_dir))
        share = mixture_share(mixture, _sizes(counts))
        rates = dict(sorted(flat(share).items()))
        wanted = MixtureManifest(
            name=mixture,
            tasks=tuple(rates),
            rates=tuple(rates.values()),
            modules=tuple(modules),
            tree=share.to_json(),
            stamps=dict.fromkeys(splits, made_from),
        )
        has_train = any(count for (_, split), count in counts.items() if split == "train")
        write_mixture(wanted, access, has_train)
        if has_train and "train" in splits:
            _note_undrawn(wanted, counts)


def _compare(
    mixture: str,
    tasks: Sequence[seqio.Task],
    splits: Sequence[str],
    num_shards: int | None,
    max_rejected_fraction: float,
    access: Access,
) -> tuple[list[Plan], dict[tuple[str, str], int]]:
    """The plans of what is missing or out of date, and the examples of what is not, by task and
    split."""
    missing: list[Plan] = []
    counts: dict[tuple[str, str], int] = {}
    status = StatusLine()
    for number, task in enumerate(tasks):
        if status.is_due():
            status.put(f"{mixture}: {number:,} of {len(tasks):,} tasks are compared")
        for split in splits:
            plan = make_plan(task, split, num_shards, max_rejected_fraction)
            if split == splits[0]:
                _note(plan)
            found = up_to_date(plan, access)
            if found is None:
                access.check(f"{title(plan)} is missing there or out of date")
                missing.append(plan)
            else:
                counts[task.name, split] = found.num_examples
    status.end()
    _tell_kept(counts, mixture)
    return missing, counts


def _tell_kept(counts: Mapping[tuple[str, str], int], mixture: str) -> None:
    """Says what is up to date: of a few tasks each, of many their sum."""
    lines = [f"{task}/{split}: up to date, {n:,} examples" for (task, split), n in counts.items()]
    if len(lines) > _MOST_LINES:
        num_tasks = len({task for task, _ in counts})
        lines = [
            f"{mixture}: {num_tasks:,} tasks are up to date, {sum(counts.values()):,} examples in "
            f"{len(counts):,} splits"
        ]
    for line in lines:
        say(line)


def _check_arguments(
    data_dir: str, num_shards: int | None, max_rejected_fraction: float, runner: str
) -> None:
    if "://" in data_dir:
        raise ValueError(f"data_dir must be a local or mounted folder, got {data_dir!r}.")
    if num_shards is not None and num_shards < 1:
        raise ValueError(f"num_shards must be at least 1 or None, got {num_shards}.")
    if not 0 <= max_rejected_fraction <= 1:
        raise ValueError(
            f"PREPARE_MAX_REJECTED (max_rejected_fraction) is {max_rejected_fraction}: it is a "
            "share of all records, from 0 to 1."
        )
    if runner != "processes" and runner.split(" ")[0] != pending.BEAM:
        raise ValueError(f'runner must be "processes" or "beam --flags", got {runner!r}.')


def _note(plan: Plan) -> None:
    for note in plan.scoring.notes:
        say(f"Note on task {plan.task.name}: {note}")


def _note_undrawn(mixture: MixtureManifest, counts: Mapping[tuple[str, str], int]) -> None:
    """Says what rates come to nothing: a run draws the other tasks the more often."""
    rates = zip(mixture.tasks, mixture.rates, strict=True)
    undrawn = {task: rate for task, rate in rates if not counts[task, "train"]}
    if undrawn:
        say(
            f"Note on mixture {mixture.name}: {sum(undrawn.values()):.2%} of its rates come to "
            f"nothing, as there are no examples in 'train' of {first_names(undrawn)} "
            f"({len(undrawn)} of {len(mixture.tasks)} tasks). The others are drawn "
            f"more often, in proportion."
        )


def _check_splits(
    mixture: str, tasks: Sequence[seqio.Task], splits: Sequence[str], data_dir: str
) -> None:
    """Refuses splits that no task has, before anything is written for them."""
    there = {split for task in tasks for split in task.splits}
    if not splits:
        raise ValueError(
            f"PREPARE_SPLITS names no split: name one of those that tasks of {mixture!r} have: "
            f"{', '.join(map(repr, sorted(there)))}."
        )
    absent = [split for split in splits if split not in there]
    unusual = [split for split in absent if split not in _USUAL_SPLITS]
    in_vain = absent and len(absent) == len(splits)
    if unusual or (in_vain and not any(_num_examples(t.name, "train", data_dir) for t in tasks)):
        raise ValueError(
            f"No task of {mixture!r} has a split {(unusual or absent)[0]!r} (PREPARE_SPLITS, "
            f"EVAL_SPLIT, --split of inspect). Name one of those they have: "
            f"{', '.join(map(repr, sorted(there)))}."
        )


def _no_examples(
    mixture: str, tasks: Sequence[seqio.Task], splits: Sequence[str], data_dir: str
) -> str:
    entries = [(task, manifest.read_task(data_dir, task.name, splits[0])) for task in tasks]
    reasons = [reason for entry in entries if (reason := inputs.why_empty(*entry))]
    return " ".join([f"{mixture!r} has no examples in splits {tuple(splits)}.", *reasons[:5]])


def _sizes(counts: Mapping[tuple[str, str], int]) -> dict[str, int]:
    """Examples by task that rates are computed from: of the training split, where there is one."""
    train = {task: count for (task, split), count in counts.items() if split == "train"}
    if any(train.values()):
        return train
    # Nothing can be trained on: the mixture is for evaluation, which ignores the rates.
    return {task: max(counts[key] for key in counts if key[0] == task) for task in train}


def _num_examples(task: str, split: str, data_dir: str) -> int:
    try:
        return manifest.read_task(data_dir, task, split).num_examples
    except FileNotFoundError:
        return 0  # this split has not been prepared
