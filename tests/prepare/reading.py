"""Prepares data and reads it back, for tests."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from array_record.python.array_record_module import ArrayRecordReader

from ul2tune.data import codec, manifest, rates, vocab
from ul2tune.prepare.rates import mixture_share
from ul2tune.prepare.run import prepare


def examples(data_dir: Path | str, task: str, split: str = "train") -> list[codec.Example]:
    """All examples of a split in order."""
    folder = manifest.task_dir(data_dir, task, split)
    found = []
    for shard in manifest.read_task(data_dir, task, split).shards:
        reader = ArrayRecordReader(str(folder / shard.file))
        found += [codec.decode(data) for data in reader.read_all()]
        reader.close()
    return found


def effective_rates(name: str, num_examples: Mapping[str, int]) -> dict[str, float]:
    """Rates of all tasks with a positive one, as `prepare` writes them into the manifest."""
    return dict(sorted(rates.flat(mixture_share(name, num_examples)).items()))


def texts(data_dir: Path | str, task: str, split: str = "train") -> list[str]:
    """The decoded targets of a split in order."""
    entry = manifest.read_task(data_dir, task, split)
    vocabulary = vocab.load(entry.vocabulary, root=data_dir)
    found = examples(data_dir, task, split)
    return [vocabulary.decode(example.arrays["targets"]) for example in found]


def snapshot(folder: Path) -> dict[str, tuple[int, bytes]]:
    """(inode, content) of every file."""
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    return {str(p.relative_to(folder)): (p.stat().st_ino, p.read_bytes()) for p in files}


def contents(folder: Path) -> dict[str, bytes]:
    return {name: content for name, (_, content) in snapshot(folder).items()}


def run(name, data_dir, **kwargs):
    prepare(name, [], str(data_dir), num_workers=1, **kwargs)
