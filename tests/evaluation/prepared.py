"""A small prepared instruction mixture, written with the codec: what `prepare` would have made."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from array_record.python.array_record_module import ArrayRecordWriter

from ul2tune.data import codec, manifest, vocab
from ul2tune.data.manifest import MixtureManifest, Shard, TaskManifest
from ul2tune.data.vocab import ByteVocabulary
from ul2tune.instructions.records import Record, Rendered, evaluation_fields

VOCABULARY: ByteVocabulary = vocab.ByteVocabulary(extra_ids=0, modes=())
TASKS = {"first": "Extraction", "is_long": "Classification"}
CHOICES = {"first": None, "is_long": ("yes", "no", "odd")}


def records(task: str, count: int = 7) -> list[Record]:
    """Prompts of very different lengths."""
    rows = []
    for index in range(count):
        text = f"{task} " + "word " * (index * index % 17)
        rows.append(
            Record(
                id=f"{index}",
                task=task,
                category=TASKS[task],
                instruction="",
                input=text,
                targets=("yes", "long") if index % 2 else ("no",),
                answer_choices=CHOICES[task],
            )
        )
    return rows


def write(
    folder: Path, *, mixture: str = "instructions", split: str = "validation", **changes
) -> Path:
    """Writes both tasks and the mixture; `changes` replace fields of the task manifests."""
    for task in TASKS:
        write_task(folder, task, split, **changes)
    rates = tuple(1 / len(TASKS) for _ in TASKS)
    mixture_manifest = MixtureManifest(name=mixture, tasks=tuple(TASKS), rates=rates)
    manifest.write(mixture_manifest, manifest.mixture_path(folder, mixture))
    return folder


def write_task(folder: Path, task: str, split: str, **changes) -> None:
    rows = []
    for record in records(task):
        choices = record.answer_choices or ()
        rendered = Rendered(inputs=record.input, targets=record.targets[0], answer_choices=choices)
        rows.append((record, rendered))
    write_rows(folder, task, split, rows, **changes)


def write_rows(
    folder: Path,
    task: str,
    split: str,
    rows: Sequence[tuple[Record, Rendered]],
    *,
    fields: Mapping[str, Any] | None = None,
    end: Sequence[int] = (),
    **changes,
) -> None:
    """Writes rendered records; `fields` are added to each, `end` to each one's ids,
    `changes` replace the manifest's.
    """
    target = manifest.task_dir(folder, task, split)
    target.mkdir(parents=True)
    path = target / "data-00000-of-00001.arrayrecord"
    writer = ArrayRecordWriter(str(path), "group_size:1")
    for record, rendered in rows:
        ids = {"inputs": rendered.inputs, "targets": rendered.targets}
        arrays = {
            name: np.array([*VOCABULARY.encode(text), *end], np.int32) for name, text in ids.items()
        }
        texts = evaluation_fields(record, rendered) | dict(fields or {})
        writer.write(codec.encode(codec.Example(arrays=arrays, fields=texts)))
    writer.close()
    shard = Shard(
        file=path.name,
        num_examples=len(rows),
        num_bytes=path.stat().st_size,
        sha256=hashlib.sha256(path.read_bytes()).hexdigest(),
        tokens={},
    )
    values = {
        "task": task,
        "split": split,
        "shards": (shard,),
        "num_examples": len(rows),
        "features": {"inputs": {"add_eos": True}, "targets": {"add_eos": True}},
        "vocabulary": VOCABULARY.to_json(),
        "fingerprint": f"print-{task}",
        "metrics": (
            "ul2tune.metrics.registry.exact_match",
            "tests.evaluation.prepared.mean_length",
        ),
    }
    manifest.write(TaskManifest(**{**values, **changes}), target / "manifest.json")


def mean_length(targets, predictions):
    """A metric function of a user's own, with SeqIO's signature."""
    return {"mean_length": sum(map(len, predictions)) / len(targets)}
