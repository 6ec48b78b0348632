"""Effective mixture rates: what SeqIO's nested mixtures and rate functions come to, per task."""

from __future__ import annotations

import json
import math
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import seqio


def effective_rates(name: str, num_examples: Mapping[str, int]) -> dict[str, float]:
    """Rates of all tasks with a positive one, normalised to sum 1, in the order of their names.

    A task that is in several sub-mixtures gets the sum of what it gets in each, and a sub-mixture
    divides its own rate among its tasks: `seqio.Mixture.get_rate`. Rate functions that look at the
    size of a task's cache (`seqio.mixing_rate_num_examples`) see the prepared sizes.

    Args:
      name: a registered task or mixture.
      num_examples: prepared training examples by task.

    Raises:
      ValueError: if a rate is negative or not finite, or all are zero.
    """
    provider = seqio.get_mixture_or_task(name)
    if isinstance(provider, seqio.Task):
        return {provider.name: 1.0}
    with _as_seqio_caches(provider.tasks, num_examples):
        rates = {task.name: float(provider.get_rate(task)) for task in provider.tasks}
    for task, rate in rates.items():
        if rate < 0 or not math.isfinite(rate):
            raise ValueError(f"Task {task!r} has rate {rate} in mixture {name!r}; use rates >= 0.")
    total = sum(rates.values())
    if total == 0:
        raise ValueError(f"All rates of mixture {name!r} are zero.")
    return {task: rate / total for task, rate in rates.items() if rate > 0}


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
        seqio.set_global_cache_dirs([folder])
        try:
            yield
        finally:
            seqio.set_global_cache_dirs(before)
            for task in tasks:  # SeqIO remembers where it found a cache
                task._cache_dir, task._stats = None, {}
