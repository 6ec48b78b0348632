"""Prompts for `infer`: JSON lines, or plain text with one prompt per line."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

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
        optional ``id``, no two alike; ``"text"``: every line is a prompt; None: as the file's name
        says, else JSON lines if the first one is such an object, and text if it is no object.

    Raises:
      ValueError: naming file, line and what is wrong with it; or if there is no prompt at all.
    """
    lines: dict[str, int] = {}
    for prompt in _read(path, format):
        first = lines.setdefault(prompt.id, prompt.line)
        if first != prompt.line:
            raise ValueError(
                f"{_name(path)}:{prompt.line}: line {first} has the id {prompt.id!r} too (a prompt "
                f"without one is named by its line). Ids must be unique: prompts of one id would "
                f"be sampled alike."
            )
        yield prompt


def _read(path: str, format: str | None) -> Iterator[Prompt]:
    """As `read`, whatever the ids."""
    if format not in (None, *FORMATS):
        raise ValueError(f"input_format must be one of {FORMATS} or None, got {format!r}.")
    name = _name(path)
    format, found = format or _by_name(path), False
    for number, line in _lines(path):
        if number == 1:
            line = line.removeprefix(_BYTE_ORDER_MARK)
        if format is None:
            format = _by_content(line, f"{name}:{number}")
        found = True
        if format == "jsonl":
            yield _parse(line, name, number)
        else:
            text = reading.decode(line, f"{name}:{number}").rstrip("\r\n")
            yield Prompt(line=number, id=str(number), text=text)
    if not found:
        raise ValueError(
            f"INFER_INPUT: {name} has no prompts. Check what should have written them."
        )


def _name(path: str) -> str:
    return "stdin" if path == STDIN else path


def _by_name(path: str) -> str | None:
    suffixes = [suffix for suffix in Path(path).suffixes if suffix not in (".gz", ".zst")]
    return _SUFFIXES.get(suffixes[-1]) if suffixes else None


def _by_content(line: bytes, where: str) -> str:
    hint = " If the line itself is the prompt, set INFER_INPUT_FORMAT = 'text'."
    _check_whole(line, where, hint)
    try:
        data = json.loads(line)
    except (ValueError, RecursionError):
        return "text"
    if not isinstance(data, dict):
        return "text"
    if not set(TEXT_KEYS) & set(data):
        raise ValueError(_without_prompt(where, data) + hint)
    return "jsonl"


def _without_prompt(where: str, data: Mapping[str, Any]) -> str:
    expected = ", ".join(map(repr, TEXT_KEYS))
    return (
        f"{where}: a JSON object must have its prompt under one of {expected}; this one has the "
        f"keys {sorted(data)}."
    )


def _lines(path: str) -> Iterator[tuple[int, bytes]]:
    if path != STDIN:
        yield from reading.read_lines(path)
        return
    for number, line in enumerate(sys.stdin.buffer, start=1):
        if line.strip():
            yield number, line


def _check_whole(line: bytes, where: str, hint: str = "") -> None:
    """Raises for a line that only begins a list or an object, as pretty-printed JSON has them."""
    if line.strip() in (b"[", b"{"):
        raise ValueError(
            f"{where}: not valid JSON by itself: the line only begins with "
            f"{line.strip().decode()!r}. Write one object per line.{hint}"
        )


def _parse(line: bytes, name: str, number: int) -> Prompt:
    _check_whole(line, f"{name}:{number}")
    data, where = reading.parse_json(line, name, number), f"{name}:{number}"
    if isinstance(data, str):
        return Prompt(line=number, id=str(number), text=data)
    if not isinstance(data, dict):
        raise ValueError(
            f"{where}: expected a JSON object or string, got {type(data).__name__}. "
            "Write one object per line."
        )
    key = next((key for key in TEXT_KEYS if key in data), None)
    if key is None:
        raise ValueError(_without_prompt(where, data))
    text = data[key]
    if not isinstance(text, str):
        raise ValueError(f"{where}: {key!r} must be a string, got {_shown(text)}.")
    identity = data.get("id", str(number))
    if isinstance(identity, bool) or not isinstance(identity, str | int):
        raise ValueError(f"{where}: 'id' must be a string or an integer, got {_shown(identity)}.")
    return Prompt(line=number, id=str(identity), text=text)


def _shown(value: Any) -> str:
    """A value as its file spells it, not too long."""
    return f"{json.dumps(value, ensure_ascii=False):.60}"
