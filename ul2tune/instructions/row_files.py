"""A file of JSON objects as a corpus: each row gives records, whole rows are held out.

For collections whose every file is one list of rows: generated instructions, conversations.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ul2tune.instructions import reading
from ul2tune.instructions.records import Record, SplitLevel, stable_hash

log = logging.getLogger(__name__)
# (row, "file:line" for errors, an id for the row) -> its records
Parser = Callable[[Mapping[str, Any], str, str], Sequence[Record]]


def load(path: str | Path, parse: Parser) -> Iterator[Record]:
    """The records of all rows of a file (`reading.read_rows`), in order.

    Raises:
      ValueError: naming the file, the line and what is wrong there; also for an id that repeats.
    """
    for _, records in _parsed(path, parse):
        yield from records


@dataclass(frozen=True, kw_only=True)
class RowFile:
    """A file with splits "train" and "validation".

    Attributes:
      path: see `reading.read_rows`.
      parse: makes a row's records; a module-level function.
      validation: the share of rows that are held out, by hash; 1 = all, and no "train".
      group_by: rows that agree in this key are on the same side; empty = each for itself.
    """

    path: str
    parse: Parser
    validation: float = 0.02
    group_by: str = ""

    def __post_init__(self) -> None:
        if not 0.0 <= self.validation <= 1.0:
            raise ValueError(f"validation must be a share in [0, 1], got {self.validation}.")

    @property
    def splits(self) -> tuple[str, ...]:
        """SeqIO splits."""
        train = ("train",) if self.validation < 1 else ()
        return (*train, "validation") if self.validation > 0 else train

    def read(self, split: str) -> Iterator[Record]:
        """The records of one split.

        Raises:
          ValueError: naming file and line of what is malformed.
        """
        held_out = split == "validation"
        level: SplitLevel = "held_out" if held_out else "train"
        empty = 0
        for group, records in _parsed(self.path, self.parse, self.group_by):
            empty += not records
            if (stable_hash("validation", group) < self.validation * 2.0**64) == held_out:
                yield from (replace(record, split_level=level) for record in records)
        if empty and split == self.splits[0]:  # of both splits, told once
            log.warning("%s: rows left out because they are empty: %d.", self.path, empty)

    def fingerprint(self) -> str:
        """Of the file's bytes and the options."""
        options = (self.parse.__module__, self.parse.__qualname__, self.validation, self.group_by)
        return reading.fingerprint([self.path], Path(self.path).stem, *options)


def _parsed(
    path: str | Path, parse: Parser, group_by: str = ""
) -> Iterator[tuple[str, Sequence[Record]]]:
    seen: set[str] = set()
    stem = Path(path).stem
    for number, (where, row) in enumerate(reading.read_rows(path), start=1):
        identity = f"{stem}-{number}"
        records = parse(row, where, identity)
        for record in records:
            if record.id in seen:
                raise ValueError(f"{where}: the id {record.id!r} is already taken by another row.")
            seen.add(record.id)
        yield str(row.get(group_by, identity)), records
