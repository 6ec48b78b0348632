"""What the vocabulary loses of a task's own text. Imports SeqIO, so it is loaded only on demand."""

from __future__ import annotations

import importlib
import itertools
from collections.abc import Sequence

from ul2tune.data.roundtrip import RoundTrip, audit
from ul2tune.data.vocab import Vocabulary
from ul2tune.prepare.plan import find_tasks
from ul2tune.prepare.sources import DocumentSource


def audit_sources(
    mixture: str, modules: Sequence[str], split: str, vocabulary: Vocabulary, num_texts: int
) -> dict[str, RoundTrip]:
    """Reads the first documents of every task that has a corpus, before any tokenising.

    Returns:
      An audit by task; tasks with another kind of source are left out.
    """
    for module in modules:
        importlib.import_module(module)
    return {
        task.name: audit(
            vocabulary,
            (document["text"] for document in itertools.islice(task.source.read(split), num_texts)),
        )
        for task in find_tasks(mixture)
        if isinstance(task.source, DocumentSource)
    }
