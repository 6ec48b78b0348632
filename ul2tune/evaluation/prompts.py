"""Prompts for `infer`: JSON lines, or plain text with one prompt per line."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ul2tune.instructions import reading

STDIN = "-"
TEXT_KEYS = ("prompt", "inputs", "inputs_text")
FORMATS = ("jsonl", "text")
# By a file's name, before a compression's ending; other names tell nothing.
_SUFFIXES = {".jsonl": "jsonl", ".ndjson": "jsonl", ".json": "jsonl", ".txt": "text"}
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


@dataclass(frozen=True, kw_only=True)
class Prompt:
    """One prompt.

    Attributes:
      line: its line in the input, from 1.
      id: names it; the line number where the input names none. Decides the draws of sampling.
      text: what the model is given.
    """

    line: int
    id: str
    text: str


def read(path: str, format: str | None = None) -> Iterator[Prompt]:
    """Reads prompts one by one; blank lines are skipped but counted.

    Args:
      path: a file, plain or compressed, or ``"-"`` for standard input.
      format: ``"jsonl"``: strings, or objects with the text under one of :data:`TEXT_KEYS` and an
        optional ``id``; ``"text"``: every line is a prompt; None: as the file's name says, else
        JSON lines if the first one is such an object.

    Raises:
      ValueError: naming file, line and what is wrong with it.
    """
    if format not in (None, *FORMATS):
        raise ValueError(f"input_format must be one of {FORMATS} or None, got {format!r}.")
    name = "stdin" if path == STDIN else path
    format = format or _by_name(path)
    for number, line in _lines(path):
        if number == 1:
            line = line.removeprefix(_BYTE_ORDER_MARK)
        if format is None:
            format = _by_content(line)
        if format == "jsonl":
            yield _parse(line, name, number)
        else:
            text = reading.decode(line, f"{name}:{number}").rstrip("\r\n")
            yield Prompt(line=number, id=str(number), text=text)


def _by_name(path: str) -> str | None:
    suffixes = [suffix for suffix in Path(path).suffixes if suffix not in (".gz", ".zst")]
    return _SUFFIXES.get(suffixes[-1]) if suffixes else None


def _by_content(line: bytes) -> str:
    try:
        data = json.loads(line)
    except (ValueError, RecursionError):
        return "text"
    return "jsonl" if isinstance(data, dict) and set(TEXT_KEYS) & set(data) else "text"


def _lines(path: str) -> Iterator[tuple[int, bytes]]:
    if path != STDIN:
        yield from reading.read_lines(path)
        return
    for number, line in enumerate(sys.stdin.buffer, start=1):
        if line.strip():
            yield number, line


def _parse(line: bytes, name: str, number: int) -> Prompt:
    data, where = reading.parse_json(line, name, number), f"{name}:{number}"
    if isinstance(data, str):
        return Prompt(line=number, id=str(number), text=data)
    if not isinstance(data, dict):
        raise ValueError(f"{where}: expected a JSON object or string, got {type(data).__name__}.")
    text = next((data[key] for key in TEXT_KEYS if key in data), None)
    if not isinstance(text, str):
        raise ValueError(
            f"{where}: needs a string under one of {TEXT_KEYS}; the keys are {sorted(data)}."
        )
    identity = data.get("id", str(number))
    if not isinstance(identity, str | int):
        raise ValueError(f"{where}: 'id' must be a string or a number, got {identity!r:.60}.")
    return Prompt(line=number, id=str(identity), text=text)
