"""The words of a prepared mixture, streamed: what decontamination compares."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import numpy as np

from ul2tune.data import manifest, vocab
from ul2tune.data.codec import Example
from ul2tune.data.vocab import Vocabulary
from ul2tune.feed.store import Readers, Store
from ul2tune.instructions.decontaminate import Text

_AT_ONCE = 256


def mixture_texts(
    data_dir: str, mixture: str, split: str, *, instances: bool = False, drawn_only: bool = False
) -> Iterator[Text]:
    """Every example of every task of a prepared mixture once, as prompt and references.

    Where the text was not kept (running text for denoising), it is decoded from the tokens.

    Args:
      data_dir: where `ul2tune prepare` wrote it.
      mixture: its name.
      split: SeqIO split.
      instances: the instance's own input instead of the prompt around it, where it is known: all
        prompts of a task share their instruction, and that is no contamination.
      drawn_only: only of the tasks that a run draws from; evaluation goes over the others too.

    Raises:
      FileNotFoundError: if the mixture or its split is not prepared.
    """
    with contextlib.closing(Readers()) as readers:
        prepared = manifest.read_mixture(data_dir, mixture)
        for name in prepared.tasks if drawn_only else prepared.all_tasks:
            task = manifest.read_task(data_dir, name, split)
            vocabulary = vocab.load(task.vocabulary, root=data_dir)
            store = Store(data_dir, task, readers)
            for start in range(0, len(store), _AT_ONCE):
                rows = store.read(np.arange(start, min(start + _AT_ONCE, len(store))))
                for number, row in enumerate(rows, start=start):
                    identity = row.fields.get("id", number)
                    yield Text(name=f"{name}/{identity}", text=_text(row, vocabulary, instances))


def _text(row: Example, vocabulary: Vocabulary, instances: bool) -> str:
    parts = []
    for side in ("inputs", "targets"):
        kept: Any = row.fields.get(f"{side}_text")
        if side == "inputs" and instances:
            kept = row.fields.get("copy_input") or kept
        if kept is None and side in row.arrays:
            kept = vocabulary.decode(row.arrays[side].tolist())
        parts += [kept] if isinstance(kept, str) else list(kept or ())
    return "\n".join(parts)
