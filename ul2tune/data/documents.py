"""Documents out of text files: plain text, blocks between blank lines, JSON lines.

    text        one document per file
    documents   one document per block of lines between blank lines
    jsonl       one JSON object per line; the document is the string under `text_key`; blank lines
                are no records

A record that is not a document (bad JSON, wrong type, invalid UTF-8, empty) is skipped, counted and
remembered with its file and line in :class:`Rejections`; the caller decides how many are too many.
A damaged archive is an error: nobody knows what is lost with the rest of it.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import textwrap
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, BinaryIO, Literal, Protocol

from ul2tune.data import files

Format = Literal["text", "documents", "jsonl"]
FORMATS = ("text", "documents", "jsonl")
# Files are identified by content up to this many bytes in total (0.6 s), beyond by size and time.
MAX_HASHED_BYTES = 2**30
MAX_REMEMBERED = 20
MAX_REJECTED_FRACTION = 0.01
# A wrong key or format shows early: reading ends once half of at least so many are malformed.
_HOPELESS_RECORDS, _HOPELESS_FRACTION = 10_000, 0.5


@dataclass(frozen=True, kw_only=True)
class Document:
    """One document.

    Attributes:
      name: where it comes from (``"notes.jsonl:17"``), for people.
      text: not empty; line ends of text files are ``\\n``, JSON strings are as they are.
    """

    name: str
    text: str


@dataclass(kw_only=True)
class Rejections:
    """Counts records read and rejected while documents are read.

    Attributes:
      num_records: records seen, good or bad.
      num_bytes: of the input as stored (`Corpus.num_bytes`) read so far, for progress.
      counts: rejected records by reason.
      examples: the first few as ``"file:line: reason (detail)"``.
      max_fraction: the share of rejected records that will be accepted in the end.
    """

    num_records: int = 0
    num_bytes: int = 0
    counts: Counter[str] = field(default_factory=Counter)
    examples: list[str] = field(default_factory=list)
    max_fraction: float = 1.0

    def add(self, file: str, line: int, reason: str, detail: str = "") -> None:
        """Counts a rejected record.

        Raises:
          ValueError: if half of the records so far, at least 10,000, are malformed: the others need
            not be read.
        """
        self.counts[reason] += 1
        if len(self.examples) < MAX_REMEMBERED:
            self.examples.append(f"{file}:{line}: {reason}" + (f" ({detail})" if detail else ""))
        if self.num_records >= _HOPELESS_RECORDS:
            hopeless = max(_HOPELESS_FRACTION, self.max_fraction)
            self.check(hopeless, f"Reading ended early at {file}:{line}")

    def merge(self, other: Rejections) -> None:
        self.num_records += other.num_records
        self.num_bytes += other.num_bytes
        self.counts.update(other.counts)
        self.examples = (self.examples + other.examples)[:MAX_REMEMBERED]

    def check(self, max_fraction: float, where: str) -> None:
        """Raises ValueError if more than `max_fraction` of the records were rejected."""
        rejected = self.counts.total()
        if rejected > max_fraction * self.num_records:
            shown = "".join(f"\n  {example}" for example in self.examples)
            enough = math.ceil(1000 * rejected / self.num_records) / 1000
            raise ValueError(
                f"{where}: {rejected} of {self.num_records} records are malformed "
                f"({rejected / self.num_records:.2%}), more than {max_fraction:g} of all. Fix the "
                f"files, or leave such records out with --gin.PREPARE_MAX_REJECTED={enough:g} "
                f"(max_rejected_fraction of `prepare`). The first:{shown}"
            )


class Corpus(Protocol):
    """What a text task reads: documents in a fixed order, in shards that partition them."""

    def read(
        self, rejections: Rejections, *, shard: int = 0, num_shards: int = 1
    ) -> Iterator[Document]:
        """Yields one shard's documents; the shards of any `num_shards` partition the corpus."""
        ...

    def fingerprint(self) -> str:
        """Changes whenever the documents do."""
        ...

    def num_bytes(self) -> int:
        """Size of the input as stored, for choosing a number of shards and for progress."""
        ...


@dataclass(frozen=True, kw_only=True)
class FileCorpus:
    """Documents in files.

    Attributes:
      files: a path or glob, or several: local, or anything fsspec or etils.epath opens
        (``gs://…``). ``.gz`` and ``.zst`` are decompressed.
      format: ``"text"``, ``"documents"`` or ``"jsonl"`` (see the module).
      text_key: key of the text in JSON lines.
    """

    files: str | tuple[str, ...]
    format: Format = "text"
    text_key: str = "text"

    def __post_init__(self):
        if self.format not in FORMATS:
            raise ValueError(f"Unknown format {self.format!r}; use one of {FORMATS}.")

    def read(
        self, rejections: Rejections, *, shard: int = 0, num_shards: int = 1
    ) -> Iterator[Document]:
        """As :class:`Corpus`. With fewer files than shards, several shards divide one file: each
        reads all of it and parses its share of the records."""
        found = files.expand(self.files)
        part, first = divmod(shard, len(found))
        num_parts = max(1, len(range(first, num_shards, len(found))))
        for file in found[first::num_shards]:
            counted = 0
            for index, (line, record, end) in enumerate(_records(file, self.format)):
                # The parts of a file add up to its bytes, though each reads them all.
                rejections.num_bytes += (end + part) // num_parts - counted
                counted = (end + part) // num_parts
                if index % num_parts == part and (self.format != "jsonl" or record.strip()):
                    rejections.num_records += 1
                    text = self._parse(record, file, line, rejections)
                    if text is not None:
                        yield Document(name=f"{os.path.basename(file)}:{line}", text=text)

    def fingerprint(self) -> str:
        digest = hashlib.sha256(f"{self.format}\0{self.text_key}".encode())
        by_content = self.num_bytes() <= MAX_HASHED_BYTES
        for file in files.expand(self.files):
            digest.update(os.path.basename(file).encode() + b"\0")
            digest.update(files.sha256(file) if by_content else str(files.stamp(file)).encode())
        return digest.hexdigest()[:16]

    def num_bytes(self) -> int:
        return sum(files.stamp(file)[0] for file in files.expand(self.files))

    def _parse(self, record: bytes, file: str, line: int, log: Rejections) -> str | None:
        try:
            text = record.decode("utf-8")
            if self.format == "jsonl" and text.strip():
                text = _text_of(json.loads(text), self.text_key)
                text.encode("utf-8")  # JSON can escape lone surrogates, which no tokenizer takes
        except (UnicodeDecodeError, UnicodeEncodeError) as error:
            # A block may span lines: point at the one that holds the bad byte.
            inner = record.count(b"\n", 0, error.start) if isinstance(error.object, bytes) else 0
            log.add(file, line + inner, "invalid UTF-8", error.reason)
        except json.JSONDecodeError as error:
            what = error.msg.removesuffix(" at")
            log.add(file, line, "bad JSON", f"{what} at column {error.colno}")
        except ValueError as error:  # an integer of more digits than Python converts
            log.add(file, line, "bad JSON", str(error).partition(";")[0])
        except RecursionError:
            log.add(file, line, "bad JSON", "nested too deeply")
        except TypeError as error:
            log.add(file, line, "wrong type", str(error))
        else:
            text = text.replace("\r\n", "\n") if self.format != "jsonl" else text
            if text.strip():
                return text
            log.add(file, line, "empty")
        return None


def _text_of(value: Any, key: str) -> str:
    if not isinstance(value, dict):
        raise TypeError(f"{type(value).__name__} instead of an object")
    if not isinstance(value.get(key), str):
        if key in value:
            raise TypeError(f"{key!r} is {type(value[key]).__name__}, not a string")
        texts = ", ".join(repr(k) for k, text in value.items() if isinstance(text, str))
        shown = textwrap.shorten(texts, 60, placeholder=" …")
        hint = f"; text_key could name {shown}" if texts else ""
        raise TypeError(f"{key!r} is missing{hint}")
    return value[key]


def split_of(text: str, validation_fraction: float) -> str:
    """``"validation"`` for about `validation_fraction` of all texts, by their hash, else
    ``"train"``.

    Equal texts always fall on the same side, whatever the files' order.
    """
    digest = hashlib.blake2b(text.encode("utf-8"), digest_size=8).digest()
    return "validation" if int.from_bytes(digest) < validation_fraction * 2**64 else "train"


def _records(file: str, format: Format) -> Iterator[tuple[int, bytes, int]]:
    """(first line number, bytes, position in the file as stored) of each record of a file."""
    with files.open_counted(file) as (stream, position):
        first = stream.read(3)
        start = b"" if first == b"\xef\xbb\xbf" else first  # byte order mark
        lines = _lines(start, stream)
        if format == "text":
            found = iter([(1, b"".join(lines))])
        elif format == "jsonl":
            found = ((number, line.rstrip(b"\r\n")) for number, line in enumerate(lines, 1))
        else:
            found = _blocks(lines)
        for line, record in found:
            yield line, record, position()


def _lines(start: bytes, stream: BinaryIO) -> Iterator[bytes]:
    """The stream's lines; `start` was read from it already and may hold line ends itself."""
    *whole, rest = start.split(b"\n")
    yield from (line + b"\n" for line in whole)
    first = rest + stream.readline()
    if first:
        yield first
    yield from stream


def _blocks(lines: Iterator[bytes]) -> Iterator[tuple[int, bytes]]:
    begin, block = 0, []
    for number, line in enumerate(lines, start=1):
        if line.strip():
            begin = begin if block else number
            block.append(line)
        elif block:
            yield begin, b"".join(block).rstrip(b"\r\n")
            block = []
    if block:
        yield begin, b"".join(block).rstrip(b"\r\n")
