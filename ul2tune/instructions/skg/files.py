"""Finding the files of UnifiedSKG's data sets in a folder, and reading a task's splits from them.

wikitq_train*.jsonl  wikitq_dev*.jsonl  wikitq_test*.jsonl  wikitq_tables*.json
tabfact_*.jsonl      dart_*.jsonl                           (train, dev, test, small_test)
spider/train*.json   spider/dev*.json   spider/tables*.json spider/database/<db>/<db>.sqlite
multiwoz/train_dials.json …             multiwoz/ontology.json, multiwoz/slot_description.json
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from ul2tune.instructions import reading
from ul2tune.instructions.records import Record, stable_hash
from ul2tune.instructions.skg import records as skg_records
from ul2tune.instructions.skg.config import TaskConfig

# kind -> (start of its files' names, pattern of the second file)
_PREFIXES = {
    "wikitq": ("wikitq_", "wikitq_tables*.json"),
    "tab_fact": ("tabfact_", ""),
    "dart": ("dart_", ""),
    "spider": ("spider/", "spider/tables*.json"),
    "multiwoz": ("multiwoz/", "multiwoz/ontology*.json"),
}
# SeqIO's splits and what files call them, best first: without a file for development, that for
# testing validates, as UnifiedSKG tests on development files where there are no others.
_SPLITS = {
    # Spider's release has train_others.json as well, which UnifiedSKG does not train on.
    "train": ("train_spider", "train"),
    "validation": ("dev", "validation", "val", "test", "small_test"),
    "test": ("test", "small_test"),
}
_SHARES = 2**64


@dataclass(frozen=True, kw_only=True)
class SkgFiles:
    """The files of one task as a corpus of records.

    Attributes:
      task: how it is written.
      files: split -> file.
      support: the second file, if the kind has one.
      carve: without a training file, this share of the validation file's tables and databases
        becomes the training split; 0 = there is no training split.
      seed: of that, and of the choice of few-shot examples.
    """

    task: TaskConfig
    files: Mapping[str, str] = field(default_factory=dict)
    support: str | None = None
    carve: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0.0 <= self.carve < 1.0:
            raise ValueError(f"carve must be a share from 0 up to, not including, 1: {self.carve}.")

    @property
    def is_carved(self) -> bool:
        """Whether the training split is taken from the validation file."""
        return bool(self.carve) and "train" not in self.files and "validation" in self.files

    @property
    def splits(self) -> tuple[str, ...]:
        """SeqIO splits."""
        if not self.is_carved:
            return tuple(self.files)
        # What is trained on is not tested on as well.
        taken = self.files["validation"]
        rest = (s for s, file in self.files.items() if s == "validation" or file != taken)
        return ("train", *rest)

    def read(self, split: str) -> Iterator[Record]:
        """The records of one split.

        Raises:
          ValueError: if a file is malformed, naming file, line and reason.
        """
        file = self.files["validation" if self.is_carved and split == "train" else split]
        level = "train" if split == "train" else "supervised"
        found = skg_records.load(self.task.kind, file, support=self.support, split_level=level)
        if self.is_carved and split in ("train", "validation"):
            found = (r for r in found if self._is_train(r) == (split == "train"))
        if split == "train":
            copies = range(self.task.expansion)
            found = (_copy(record, i) for record in self._few(found) for i in copies)
        yield from self._by_slot(found) if self.task.separate_slots else found

    def fingerprint(self) -> str:
        """Of the files' bytes and the options."""
        paths = [*self.files.values(), *filter(None, [self.support])]
        if self.task.kind == "multiwoz" and self.support is not None:
            described = skg_records.slot_descriptions(self.support)
            paths += [str(described)] if described else []
        return reading.fingerprint(paths, self.task, self.splits, self.carve, self.seed)

    def _is_train(self, record: Record) -> bool:
        source = skg_records.source_of(record).partition("#")[0]
        return stable_hash(self.seed, "carve", source) / _SHARES < self.carve

    def _few(self, records: Iterator[Record]) -> Iterator[Record]:
        """The share `few_shot` of the examples, chosen by the seed, in the file's order.

        DIVERGES: the reference shuffles them and draws from Python's global generator.
        """
        if self.task.few_shot is None:
            return records
        whole = list(records)
        ranked = sorted(whole, key=lambda record: stable_hash(self.seed, "few", record.id))
        chosen = {record.id for record in ranked[: int(self.task.few_shot * len(whole))]}
        return (record for record in whole if record.id in chosen)

    def _by_slot(self, records: Iterator[Record]) -> Iterator[Record]:
        """MultiWoZ's other mode: one example per slot, which is asked for by name."""
        for record in records:
            structure = json.loads(record.structure)
            for slot in structure["ontology"]:
                value = structure["belief"].get(slot, "none").strip().lower()
                yield replace(
                    record,
                    id=f"{record.id}@{slot}",
                    targets=(value,),
                    metric_names=("exact_match",),
                    metric_context="",
                    structure=json.dumps({**structure, "slot": slot}, ensure_ascii=False),
                )


def find(folder: str | Path, task: TaskConfig, *, carve: float = 0.0, seed: int = 0) -> SkgFiles:
    """The files of a task in a folder; none at all is no error.

    Raises:
      ValueError: if two files could be a split's, or the second file is missing.
    """
    if task.kind not in _PREFIXES:
        return SkgFiles(task=task, carve=carve, seed=seed)
    folder = Path(folder)
    prefix, pattern = _PREFIXES[task.kind]
    files: dict[str, str] = {}
    for split, names in _SPLITS.items():
        found = next(filter(None, (_matching(folder, prefix, name) for name in names)), [])
        if len(found) > 1:
            shown = ", ".join(path.name for path in found)
            raise ValueError(
                f"{folder}: several files for {split!r} of {task.kind!r}: {shown}. Leave one there."
            )
        if found:
            files[split] = str(found[0])
    support = None
    if pattern and files:
        others = sorted(folder.glob(pattern))
        if len(others) != 1:
            raise ValueError(
                f"{folder}: {task.kind!r} needs one file {pattern}; there are {len(others)}."
            )
        support = str(others[0])
    return SkgFiles(task=task, files=files, support=support, carve=carve, seed=seed)


def _matching(folder: Path, prefix: str, split: str) -> list[Path]:
    """Files called prefix, split, and something after it that does not continue the word.

    Spider's test_tables.json is a second file.
    """
    candidates = sorted(folder.glob(f"{prefix}{split}*.json*"))
    start = len(prefix.rpartition("/")[2]) + len(split)
    return [
        path
        for path in candidates
        if not path.name[start].isalnum() and not path.name[start:].startswith("_tables.")
    ]


def _copy(record: Record, number: int) -> Record:
    return replace(record, id=f"{record.id}@{number}") if number else record
