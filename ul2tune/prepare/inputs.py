"""The files that a task reads: for the stamp of what is prepared (`ul2tune.data.stamp`), and to
explain why a task has no examples."""

from __future__ import annotations

import dataclasses
import functools
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import seqio

from ul2tune.data import files
from ul2tune.data.documents import FileCorpus
from ul2tune.data.manifest import TaskManifest
from ul2tune.first_names import first_names
from ul2tune.prepare.seqio_vocab import from_seqio
from ul2tune.prepare.sources import DocumentSource, PythonSource

# Attributes that hold paths: `files`, `path`, `folder`, SeqIO's `_split_to_filepattern`.
_PATHS = re.compile(r"file|path|folder|dir(_|$)|directory")
_MAX_DEPTH = 8
_MAX_SHOWN = 3


def paths(task: seqio.Task) -> Iterator[str]:
    """Paths and globs of a task's source and vocabularies, as far as their attributes name them.

    Not all need exist: names of splits are among them.
    """
    yield from _named(task.source, "", _MAX_DEPTH)
    for feature in task.output_features.values():
        yield from _vocabulary_files(from_seqio(feature.vocabulary).to_json())
        # The text that a trained vocabulary is trained on.
        yield from _named(vars(feature.vocabulary).get("_make"), "", _MAX_DEPTH)


def why_empty(task: seqio.Task, entry: TaskManifest) -> str:
    """What became of the text files of a task without examples; "" if it reads none.

    Args:
      task: the task.
      entry: the manifest of any of its splits, each of which reads all records.
    """
    source = task.source
    if not isinstance(source, DocumentSource) or not isinstance(source.corpus, FileCorpus):
        return ""
    found = files.expand(source.corpus.files)
    shown = first_names(found, _MAX_SHOWN)
    if not entry.num_records:
        return f"{task.name!r} read {shown}: no records, as in an empty file."
    rejected = sum(entry.rejected.values())
    if rejected == entry.num_records:
        reasons = ", ".join(f"{count} {reason}" for reason, count in entry.rejected.items())
        first = entry.rejected_examples[0]
        return f"{task.name!r} read {shown}: all records were rejected ({reasons}). First, {first}."
    return (
        f"{task.name!r} read {shown}: all documents are in another split (validation_fraction = "
        f"{source.validation_fraction})."
    )


def num_bytes(source: seqio.DataSource, split: str) -> int | None:
    """The size of the files that a source reads, as far as its attributes name them; None where it
    is not known here."""
    if isinstance(source, DocumentSource):
        return source.corpus.num_bytes()
    if isinstance(source, PythonSource):
        named = set(_named(source, "", _MAX_DEPTH))
        return sum(os.path.getsize(path) for path in named if os.path.isfile(path))
    if not isinstance(source, seqio.FileDataSource):
        return None
    found = source.list_shards(split)
    return sum(map(os.path.getsize, found)) if all(map(os.path.isfile, found)) else None


def _vocabulary_files(description: Mapping[str, Any]) -> Iterator[str]:
    if "file" in description:
        yield os.path.abspath(description["file"])
    if "base" in description:
        yield from _vocabulary_files(description["base"])


def _named(value: Any, name: str, depth: int) -> Iterator[str]:
    if not depth:
        return
    if isinstance(value, str | Path):
        if _PATHS.search(name):
            text = str(value)
            # Absolute, as the run that compares the stamps may have another working directory.
            yield text if "://" in text else os.path.abspath(os.path.expanduser(text))
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from _named(item, name, depth - 1)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _named(item, name, depth - 1)
    elif isinstance(value, functools.partial):
        for part in (value.args, value.keywords):
            yield from _named(part, name, depth - 1)
    elif isinstance(value, seqio.DataSource) or dataclasses.is_dataclass(value):
        for attribute, item in vars(value).items():
            yield from _named(item, attribute, depth - 1)
