"""One shard: the unit of work that a process pool and Beam both run, and that a rerun skips.

A shard is written under a temporary name and renamed when complete; beside it a hidden receipt
records what it holds, which is how a rerun after a kill knows that it is done:

    data-00003-of-00008-5eed5eed.arrayrecord
    .data-00003-of-00008-5eed5eed.json

The names end in the plan's fingerprint, so that preparing anew leaves what is there alone until all
of the new shards are done.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from array_record.python.array_record_module import ArrayRecordWriter

from ul2tune import atomic
from ul2tune.data import codec, files
from ul2tune.data.documents import Rejections
from ul2tune.data.manifest import Shard, task_dir
from ul2tune.prepare.elements import elements
from ul2tune.prepare.fields import to_example
from ul2tune.prepare.plan import Plan

# One record per group, so that the feed reads any example alone.
_WRITER_OPTIONS = "group_size:1"
_REPORT_EVERY = 64
# Called with (documents, tokens, bytes of input read) since the last call.
OnProgress = Callable[[int, int, int], None]


@dataclass(frozen=True, kw_only=True)
class Receipt:
    """What a finished shard holds.

    Attributes:
      fingerprint: of the plan it was made by.
      shard: the manifest's entry.
      max_tokens: longest example by feature.
      max_ids: largest token id by feature, 0 where there is none; empty = not known (older shards).
      num_records, rejected, rejected_examples: of the source's records, see `Rejections`.
    """

    fingerprint: str
    shard: Shard
    max_tokens: Mapping[str, int]
    max_ids: Mapping[str, int] = field(default_factory=dict)
    num_records: int = 0
    rejected: Mapping[str, int] = field(default_factory=dict)
    rejected_examples: tuple[str, ...] = ()

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> Receipt:
        values = dict(data)
        values["shard"] = Shard(**values["shard"])
        values["rejected_examples"] = tuple(values["rejected_examples"])
        return Receipt(**values)


def shard_path(plan: Plan, shard: int, data_dir: str | Path) -> Path:
    name = f"data-{shard:05d}-of-{plan.num_shards:05d}-{plan.fingerprint[:8]}.arrayrecord"
    return task_dir(data_dir, plan.task.name, plan.split) / name


def receipt_path(path: Path) -> Path:
    return path.with_name(f".{path.stem}.json")


def read_receipt(path: Path, fingerprint: str) -> Receipt | None:
    """The receipt of a shard that is complete, of this plan, and unharmed; else None."""
    try:
        receipt = Receipt.from_json(json.loads(receipt_path(path).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError, KeyError):
        return None  # not there, or cut off by a crash: the shard is simply made again
    if receipt.fingerprint != fingerprint or not path.is_file():
        return None
    return receipt if files.read_sha256(str(path)).hex() == receipt.shard.sha256 else None


def write_shard(plan: Plan, shard: int, data_dir: str | Path, on_progress: OnProgress) -> Receipt:
    """Makes one shard, independently of all others. An unharmed finished one is kept.

    Raises:
      OSError: if the file cannot be written (a full disk).
      ValueError: on anything wrong with the task's files or preprocessors; it names the task.
    """
    path = shard_path(plan, shard, data_dir)
    done = read_receipt(path, plan.fingerprint)
    if done is not None:
        on_progress(done.shard.num_examples, sum(done.shard.tokens.values()), 0)
        return done
    path.parent.mkdir(parents=True, exist_ok=True)
    _remove_leftovers(path)
    rejections = Rejections(max_fraction=plan.max_rejected_fraction)
    with _naming(plan), atomic.new_file(path) as temporary:
        tally = _write_examples(plan, shard, temporary, on_progress, rejections)
    receipt = Receipt(
        fingerprint=plan.fingerprint,
        shard=Shard(
            file=path.name,
            num_examples=tally.num_examples,
            num_bytes=path.stat().st_size,
            sha256=files.read_sha256(str(path)).hex(),
            tokens=tally.tokens,
        ),
        max_tokens=tally.max_tokens,
        max_ids=tally.max_ids,
        num_records=rejections.num_records,
        rejected=dict(rejections.counts),
        rejected_examples=tuple(rejections.examples),
    )
    atomic.write_text(receipt_path(path), json.dumps(dataclasses.asdict(receipt)))
    return receipt


@contextlib.contextmanager
def _naming(plan: Plan) -> Iterator[None]:
    """Errors of a task's own code do not know which task of a mixture it was."""
    try:
        yield
    except Exception as error:
        where = f"Task {plan.task.name!r} (split {plan.split!r})"
        if not isinstance(error, ValueError):
            error.add_note(where)
            raise
        if repr(plan.task.name) in str(error):
            raise
        raise ValueError(f"{where}: {error}") from error


@dataclass(kw_only=True)
class _Tally:
    num_examples: int = 0
    tokens: dict[str, int] = field(default_factory=dict)
    max_tokens: dict[str, int] = field(default_factory=dict)
    max_ids: dict[str, int] = field(default_factory=dict)

    def add(self, example: codec.Example) -> int:
        self.num_examples += 1
        for name, array in example.arrays.items():
            self.tokens[name] = self.tokens.get(name, 0) + array.size
            self.max_tokens[name] = max(self.max_tokens.get(name, 0), array.size)
            self.max_ids[name] = max(self.max_ids.get(name, 0), int(array.max(initial=0)))
        return sum(array.size for array in example.arrays.values())


def _write_examples(
    plan: Plan, shard: int, path: Path, on_progress: OnProgress, rejections: Rejections
) -> _Tally:
    zeros = dict.fromkeys(plan.features, 0)
    tally = _Tally(tokens={**zeros}, max_tokens={**zeros}, max_ids={**zeros})
    keep_text = plan.pipeline.online is None
    num_documents = num_tokens = read_before = 0
    with _writer(path) as write:
        for element in elements(plan, shard, rejections):
            example = to_example(element, plan.features, keep_text=keep_text)
            tokens = tally.add(example)
            write(codec.encode(example))
            num_documents, num_tokens = num_documents + 1, num_tokens + tokens
            if num_documents == _REPORT_EVERY:
                read = rejections.num_bytes
                on_progress(num_documents, num_tokens, read - read_before)
                num_documents, num_tokens, read_before = 0, 0, read
    on_progress(num_documents, num_tokens, rejections.num_bytes - read_before)
    return tally


@contextlib.contextmanager
def _writer(path: Path) -> Iterator[Callable[[bytes], None]]:
    """Yields what writes a record."""
    with _on_disk(path):
        writer = ArrayRecordWriter(str(path), _WRITER_OPTIONS)

    def write(record: bytes) -> None:
        with _on_disk(path):
            writer.write(record)

    yield write
    with _on_disk(path):
        writer.close()


@contextlib.contextmanager
def _on_disk(path: Path) -> Iterator[None]:
    # Around the writer alone: preprocessors raise RuntimeErrors of their own.
    try:
        yield
    except RuntimeError as error:
        raise OSError(f"Could not write {path}: {error}. Is the disk full?") from error


def _remove_leftovers(path: Path) -> None:
    """Temporary files of killed runs. The caller holds the folder's lock."""
    for leftover in path.parent.glob(f".{path.name}.*.tmp"):
        leftover.unlink(missing_ok=True)
