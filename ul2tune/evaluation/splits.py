"""What the manifests of a mixture's splits say: its vocabulary, how inputs end, its splits."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ul2tune.data import manifest, vocab
from ul2tune.data.ul2_config import UL2Config
from ul2tune.data.vocab import Vocabulary
from ul2tune.feed.store import Readers, Store


def vocabulary_of(mixture: str, data_dir: str) -> Vocabulary:
    """The vocabulary a mixture was prepared with, for use without its examples.

    Raises:
      FileNotFoundError: if the mixture is not prepared.
      ValueError: if its tasks have several vocabularies.
    """
    return one_vocabulary(_any_splits(mixture, data_dir), data_dir)


def prompts_end_with_eos(mixture: str, data_dir: str, override: bool | None = None) -> bool:
    """Whether the tasks of a mixture end their inputs with the end of sequence, as T5's do; those
    of decoder-only models usually end the targets alone.

    Args:
      mixture: its name.
      data_dir: where it was prepared.
      override: the answer, if it is known; then nothing is read.

    Raises:
      FileNotFoundError: if the mixture is not prepared.
      ValueError: if its tasks differ.
    """
    if override is not None:
        return override
    endings: dict[bool, str] = {}
    with contextlib.closing(Readers()) as readers:
        for entry in _any_splits(mixture, data_dir):
            if entry.online is not None:
                config = UL2Config.from_json(entry.online["config"])
                ended = config.inputs_eos and not config.is_causal
            elif "inputs" not in entry.features:
                ended = False
            elif entry.features["inputs"].get("add_eos") or not entry.num_examples:
                ended = bool(entry.features["inputs"].get("add_eos"))
            else:
                eos_id = vocab.load(entry.vocabulary, root=data_dir).info.eos_id
                row = Store(data_dir, entry, readers).read(np.arange(1))[0]
                ended = row.arrays["inputs"].tolist()[-1:] == [eos_id]
            endings.setdefault(ended, entry.task)
    if len(endings) > 1:
        raise ValueError(
            f"Of {mixture!r}, {endings[True]!r} ends its inputs with the end of sequence and "
            f"{endings[False]!r} does not. Set INFER_APPEND_EOS to True or False."
        )
    return True in endings


def one_vocabulary(entries: Sequence[manifest.TaskManifest], data_dir: str) -> Vocabulary:
    """The vocabulary of some tasks' splits.

    Raises:
      ValueError: if they have several.
    """
    prints = {entry.vocabulary["fingerprint"]: entry.task for entry in entries}
    if len(prints) > 1:
        raise ValueError(
            f"Tasks {sorted(prints.values())} were prepared with different vocabularies; a model "
            f"has one. Prepare them again with the same."
        )
    return vocab.load(entries[0].vocabulary, root=data_dir)


def with_examples(tasks: Sequence[str], data_dir: str) -> str:
    """A sentence about the splits of some tasks that could be evaluated."""
    found = sorted(
        {
            path.parent.name
            for task in tasks
            for path in (Path(data_dir) / task).glob("*/manifest.json")
            if _has_examples(task, data_dir, path.parent.name)
        }
    )
    return f"EVAL_SPLIT names it; prepared with examples: {', '.join(map(repr, found)) or 'none'}."


def _has_examples(task: str, data_dir: str, split: str) -> bool:
    try:
        return manifest.read_task(data_dir, task, split).num_examples > 0
    except ValueError:  # damaged or of another version: not the split that was asked for
        return False


def _any_splits(mixture: str, data_dir: str) -> list[manifest.TaskManifest]:
    """Whatever is prepared of a mixture: all splits of a task are made alike."""
    entries = [
        manifest.read_task(data_dir, task, path.parent.name)
        for task in manifest.read_mixture(data_dir, mixture).tasks
        for path in sorted((Path(data_dir) / task).glob("*/manifest.json"))
    ]
    if not entries:
        raise FileNotFoundError(
            f"No split of {mixture!r} is prepared in {data_dir}. Run `ul2tune prepare` for it."
        )
    return entries
