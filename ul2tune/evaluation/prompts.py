"""Prompts for `infer`: JSON lines, or plain text with one prompt per line."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

STDIN = "-"
TEXT_KEYS = ("prompt", "inputs", "inputs_text")


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


def read(path: str, format: str) -> Iterator[Prompt]:
    """Reads prompts one by one; blank lines are skipped but counted.

    Args:
      path: a file, or ``"-"`` for standard input.
      format: ``"jsonl"``: objects with the text under one of :data:`TEXT_KEYS` and an optional
        ``id``; ``"text"``: every line is a prompt.

    Raises:
      ValueError: naming file, line and what is wrong with it.
    """
    name = "stdin" if path == STDIN else path
    for number, line in enumerate(_lines(path), start=1):
        if not line.strip():
            continue
        try:
            text = line.decode("utf-8").rstrip("\r\n")
            yield (
                _parse(text, number)
                if format == "jsonl"
                else Prompt(line=number, id=str(number), text=text)
            )
        except ValueError as error:  # JSON and Unicode errors are ValueErrors
            raise ValueError(f"{name}:{number}: {error}") from error


def format_of(path: str, format: str | None) -> str:
    """The format asked for, or what the file's name says."""
    if format not in (None, "jsonl", "text"):
        raise ValueError(f"input_format must be 'jsonl', 'text' or None, got {format!r}.")
    return format or ("jsonl" if path.endswith((".jsonl", ".json")) else "text")


def _lines(path: str) -> Iterator[bytes]:
    if path == STDIN:
        yield from sys.stdin.buffer
        return
    if not Path(path).is_file():
        raise ValueError(f"Prompt file {path!r} does not exist.")
    with open(path, "rb") as file:
        yield from file


def _parse(line: str, number: int) -> Prompt:
    try:
        data: Any = json.loads(line)
    except json.JSONDecodeError as error:
        raise ValueError(f"not valid JSON ({error.msg} at column {error.colno}).") from error
    if isinstance(data, str):
        return Prompt(line=number, id=str(number), text=data)
    if not isinstance(data, dict):
        raise ValueError(f"expected a JSON object or string, got {type(data).__name__}.")
    text = next((data[key] for key in TEXT_KEYS if key in data), None)
    if not isinstance(text, str):
        raise ValueError(f"needs a string under one of {TEXT_KEYS}; the keys are {sorted(data)}.")
    identity = data.get("id", str(number))
    if not isinstance(identity, str | int):
        raise ValueError(f"'id' must be a string or a number, got {identity!r}.")
    return Prompt(line=number, id=str(identity), text=text)
