"""Effective mixture rates: what SeqIO's nested mixtures and rate functions come to, per task."""

from __future__ import annotations

import json
import math
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import seqio

from ul2tune.data import rates
from ul2tune.data.rates import Share

# Mixture -> its policy in words, which SeqIO has no place for. `prepare.mixtures` fills it.
POLICIES: dict[str, str] = {}


def mixture_share(name: str, num_examples: Mapping[str, int]) -> Share:
    """The tree of a mixture with the share of every sub-mixture and task.

    A sub-mixture divides its own rate among its tasks: `seqio.Mixture.get_rate`. Rate functions
    that look at the size of a task's cache (`seqio.mixing_rate_num_examples`) see the prepared
    sizes.

    Args:
      name: a registered task or mixture.
      num_examples: prepared training examples by task.

    Raises:
      ValueError: if a rate is negative or not finite, or all of a (sub-)mixture are zero.
    """
    provider = seqio.get_mixture_or_task(name)
    if not _asks_for_sizes(provider):  # folders of a thousand tasks take a second
        return _share(provider, num_examples, 1.0, 1.0)
    with _as_seqio_caches(list(seqio.get_subtasks(provider)), num_examples):
        return _share(provider, num_examples, 1.0, 1.0)


def _asks_for_sizes(provider: seqio.Task | seqio.Mixture) -> bool:
    """Whether a rate is anything else than a number from the start."""
    if isinstance(provider, seqio.Task):
        return False
    return any(
        not isinstance(rate, int | float) or _asks_for_sizes(seqio.get_mixture_or_task(child))
        for child, rate in provider.rate_per_task_name.items()
    )


def _share(
    provider: seqio.Task | seqio.Mixture, sizes: Mapping[str, int], rate: float, weight: float
) -> Share:
    if isinstance(provider, seqio.Task):
        examples = sizes.get(provider.name, 0)
        return Share(name=provider.name, rate=rate, weight=weight, examples=examples)
    below = [(seqio.get_mixture_or_task(n), r) for n, r in provider.rate_per_task_name.items()]
    weights = [_weight(provider.name, child, value) if rate else 0.0 for child, value in below]
    total = sum(weights)
    if rate and not total:
        raise ValueError(f"All rates of mixture {provider.name!r} are zero.")
    children = tuple(
        _share(child, sizes, rate * own / total if total else 0.0, own)
        for (child, _), own in zip(below, weights, strict=True)
    )
    # Once each, in however many places of the tree it stands.
    leaves = {leaf.name: leaf.examples or 0 for c in children for leaf in rates.share_leaves(c)}
    return Share(
        name=provider.name,
        rate=rate,
        weight=weight,
        examples=sum(leaves.values()),
        policy=POLICIES.get(provider.name, ""),
        children=children,
    )


def _weight(mixture: str, child: seqio.Task | seqio.Mixture, value: Any) -> float:
    number: Any = value(child) if callable(value) else value
    rate = float(number)
    if rate < 0 or not math.isfinite(rate):
        raise ValueError(
            f"Task {child.name!r} has rate {rate} in mixture {mixture!r}; use rates >= 0."
        )
    return rate


@contextmanager
def _as_seqio_caches(tasks: list[seqio.Task], num_examples: Mapping[str, int]) -> Iterator[None]:
    """Lets SeqIO find the prepared sizes where it looks for those of its own caches."""
    before = list(seqio.get_global_cache_dirs())
    with tempfile.TemporaryDirectory() as folder:
        for task in tasks:
            cache = Path(folder) / seqio.get_task_dir_from_name(task.name)
            cache.mkdir(parents=True)
            stats = {"examples": num_examples.get(task.name, 0)}
            (cache / "stats.train.json").write_text(json.dumps(stats))
            (cache / "COMPLETED").touch()
        try:
            _look_into([folder], tasks)
            yield
        finally:
            _look_into(before, tasks)


def _look_into(folders: list[str], tasks: list[seqio.Task]) -> None:
    seqio.set_global_cache_dirs(folders)
    for task in tasks:  # SeqIO remembers where it found a cache
        task._cache_dir, task._stats = None, {}
