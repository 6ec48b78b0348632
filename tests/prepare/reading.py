"""Reads prepared data back, for tests."""

from __future__ import annotations

from pathlib import Path

from array_record.python.array_record_module import ArrayRecordReader

from ul2tune.data import codec, manifest, vocab


def examples(data_dir: Path | str, task: str, split: str = "train") -> list[codec.Example]:
    """All examples of a split in order."""
    folder = manifest.task_dir(data_dir, task, split)
    found = []
    for shard in manifest.read_task(data_dir, task, split).shards:
        reader = ArrayRecordReader(str(folder / shard.file))
        found += [codec.decode(data) for data in reader.read_all()]
        reader.close()
    return found


def texts(data_dir: Path | str, task: str, split: str = "train") -> list[str]:
    """The decoded targets of a split in order."""
    entry = manifest.read_task(data_dir, task, split)
    vocabulary = vocab.load(entry.vocabulary, root=data_dir)
    found = examples(data_dir, task, split)
    return [vocabulary.decode(example.arrays["targets"]) for example in found]
