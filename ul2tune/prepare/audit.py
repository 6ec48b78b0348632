"""What the vocabularies of a task or mixture cannot represent, over its own text."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterator, Sequence
from typing import Any

import numpy as np

from ul2tune.data import roundtrip
from ul2tune.data.roundtrip import RoundTrip
from ul2tune.prepare.elements import elements
from ul2tune.prepare.fields import plain
from ul2tune.prepare.plan import Plan, find_tasks, make_plan
from ul2tune.prepare.sources import DocumentSource
from ul2tune.prepare.task_modules import import_modules
from ul2tune.status_line import StatusLine


def audit(
    mixture: str,
    modules: Sequence[str],
    split: str = "train",
    max_examples: int = 1000,
    tasks: Collection[str] | None = None,
) -> dict[str, RoundTrip]:
    """Round-trip audit per task, over the texts of its first examples.

    Args:
      mixture: a SeqIO task or mixture.
      modules: modules that register it.
      split: which split to read; tasks without it are left out.
      max_examples: of each task.
      tasks: only these of the mixture's; None = all.

    Returns:
      A report by task. A task whose pipeline keeps no text (token ids from elsewhere) has a report
      of no texts.
    """
    import_modules(modules)
    reports, status = {}, StatusLine()
    chosen = [
        task
        for task in find_tasks(mixture)
        if split in task.splits and (tasks is None or task.name in tasks)
    ]
    for task in chosen:
        if status.is_due():  # a big file of a source is read whole for its first examples
            status.put(f"audit of {mixture}: {len(reports):,} of {len(chosen):,} tasks are read")
        plan = make_plan(task, split, num_shards=1)
        reports[task.name] = roundtrip.audit(plan.vocabulary, texts(plan, max_examples))
    status.end()
    return reports


def texts(plan: Plan, max_examples: int) -> Iterator[str]:
    """The texts behind the tokens of a plan's first examples.

    Documents are read as they are; of other sources it is what SeqIO keeps as
    ``<feature>_pretokenized``.
    """
    source = plan.task.source
    if isinstance(source, DocumentSource):
        for element in itertools.islice(source.read(plan.split), max_examples):
            yield element["text"]
        return
    for element in itertools.islice(elements(plan), max_examples):
        for name in plan.task.output_features:
            value: Any = element.get(f"{name}_pretokenized")
            if isinstance(value, bytes | str | np.ndarray):
                found = plain(value)
                yield from (found if isinstance(found, list) else [found])
