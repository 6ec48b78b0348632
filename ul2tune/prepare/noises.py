"""The noise that tasks will be read with, known before anything is prepared: a run that has no room
for it need not wait."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import seqio

from ul2tune.data.vocab_info import VocabInfo
from ul2tune.prepare.plan import find_tasks, split_pipeline, vocabulary_of
from ul2tune.prepare.task_modules import import_modules


def noises(
    mixture: str, modules: Sequence[str]
) -> Iterator[tuple[str, Mapping[str, Any], VocabInfo]]:
    """Yields name, `TaskManifest.online` and reserved ids of a mixture's tasks of running text.

    Of those that a run draws from whatever their sizes will be: all rates on the way to them are
    stated, and none is 0.

    Args:
      mixture: name of a SeqIO task or mixture.
      modules: Python modules whose import registers it.

    Raises:
      ValueError: on anything wrong with the tasks.
    """
    import_modules(modules)
    find_tasks(mixture)  # or it says what there is instead
    for task in _surely_drawn(seqio.get_mixture_or_task(mixture)):
        if online := split_pipeline(task).online:
            yield task.name, online, vocabulary_of(task).info


def _surely_drawn(provider: seqio.Task | seqio.Mixture) -> Iterator[seqio.Task]:
    if isinstance(provider, seqio.Task):
        yield provider
        return
    for child, rate in provider.rate_per_task_name.items():
        stated = getattr(rate, "stated", rate)  # `mixtures.Rate`; others are numbers or functions
        if isinstance(stated, int | float) and stated > 0:
            yield from _surely_drawn(seqio.get_mixture_or_task(child))
