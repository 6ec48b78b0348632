"""Reading a collection's files: errors that name file and line, and fingerprints of what was read.

Files are strangers' work: whatever is wrong with one (no UTF-8, cut off, nested a million deep, one
endless line, half a surrogate pair) is a ValueError of one sentence.
"""

from __future__ import annotations

import contextlib
import csv
import hashlib
import io
import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from ul2tune.data import files

# Longest line of JSON lines: the size of Super-NI's largest files.
MAX_LINE_BYTES = 2**26
# Larger files are fingerprinted by size and time of change, not by content.
_MAX_HASHED_BYTES = 2**30
# So much of a file tells whether it is a list: white space may stand before the bracket.
_START_BYTES = 4096
_SURROGATE = ("\\ud", "\\uD")
# Editors and spreadsheets put it in front; it is no part of the first word.
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


def read_bytes(path: str | Path) -> bytes:
    """A file's bytes, without a byte order mark in front.

    Raises:
      ValueError: if there is no such file, or it cannot be read.
    """
    with _told(path):
        return Path(path).read_bytes().removeprefix(_BYTE_ORDER_MARK)


def read_text(path: str | Path) -> str:
    """A file's text, line ends as they are.

    Raises:
      ValueError: if there is no such file or it is not UTF-8.
    """
    return decode(read_bytes(path), str(path))


def read_json(path: str | Path) -> Any:
    """A file's JSON value.

    Raises:
      ValueError: naming file and line of what is wrong.
    """
    return parse_json(read_bytes(path), path)


def read_object(path: str | Path) -> dict[str, Any]:
    """As :func:`read_json`, for a file that must hold an object."""
    return parse_object(read_bytes(path), path)


def read_lines(path: str | Path) -> Iterator[tuple[int, bytes]]:
    """Numbered lines of a file, plain or compressed, as they are, without blank lines and without a
    byte order mark in front.

    Raises:
      ValueError: naming the file, and the line where there is one too long.
    """
    with _told(path), files.open_binary(str(path)) as stream:
        number = 0
        while line := stream.readline(MAX_LINE_BYTES + 1):
            number += 1
            if len(line) > MAX_LINE_BYTES:
                raise ValueError(f"{path}:{number}: longer than {MAX_LINE_BYTES:,} bytes.")
            if number == 1:
                line = line.removeprefix(_BYTE_ORDER_MARK)
            if line.strip():
                yield number, line


def read_json_lines(path: str | Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Line numbers and objects of a JSON-lines file, plain or compressed; blank lines are skipped.

    Raises:
      ValueError: naming file and line of the first one that is no JSON object.
    """
    for number, line in read_lines(path):
        yield number, parse_object(line, path, number)


def read_rows(path: str | Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """The objects of a file with their places: one JSON list, or JSON lines, plain or compressed.

    Raises:
      ValueError: naming file and line (or position in the list) of what is no object.
    """
    with _told(path), files.open_binary(str(path)) as stream:
        start = stream.read(_START_BYTES).removeprefix(_BYTE_ORDER_MARK).lstrip()
    # One named .json that is empty is a list that was lost, not JSON lines that are none.
    is_list = start[:1] == b"[" or (not start and Path(path).suffix == ".json")
    if is_list and not files.is_compressed(str(path)):
        for index, row in enumerate(read_json(path)):
            if not isinstance(row, Mapping):
                raise ValueError(f"{path}[{index}]: expected an object, got {type(row).__name__}.")
            yield f"{path}[{index}]", row
        return
    try:
        for number, row in read_json_lines(path):
            yield f"{path}:{number}", row
    except ValueError as error:
        if Path(path).suffix != ".json":
            raise
        raise ValueError(f"{error} It is read as JSON lines, as it is no list.") from error


def read_table(path: str | Path) -> tuple[tuple[str, ...], list[tuple[int, dict[str, str]]]]:
    """The columns of a CSV file with a header, and its rows with the lines they end on.

    Raises:
      ValueError: naming file and line of a row that has more or fewer columns than the header.
    """
    text = read_text(path)
    rows: list[tuple[int, dict[str, str]]] = []
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        columns = tuple(next(reader, []))
        for row in filter(None, reader):
            if len(row) != len(columns):
                raise ValueError(
                    f"{path}:{reader.line_num}: expected {len(columns)} columns, got {len(row)}."
                )
            rows.append((reader.line_num, dict(zip(columns, row))))
    except csv.Error as error:
        raise ValueError(f"{path}:{reader.line_num}: not valid CSV ({error}).") from error
    return columns, rows


@contextlib.contextmanager
def _told(path: str | Path) -> Iterator[None]:
    """Raises ValueError for what the system says of a file."""
    try:
        yield
    except FileNotFoundError as error:
        raise ValueError(f"{path} does not exist.") from error
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror or error}.") from error


def decode(data: bytes, where: str) -> str:
    """UTF-8 as text.

    Raises:
      ValueError: that starts with `where`.
    """
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{where}: not valid UTF-8 ({error}).") from error


def parse_json(data: bytes, path: str | Path, line: int | None = None) -> Any:
    """A JSON value.

    Args:
      data: UTF-8.
      path: for messages.
      line: of the file, if the data is one line of it.

    Raises:
      ValueError: naming file and line of what is wrong.
    """
    where = f"{path}:{line}" if line else str(path)
    text = decode(data, where)
    try:
        value = json.loads(text)
        if any(start in text for start in _SURROGATE):
            json.dumps(value, ensure_ascii=False).encode("utf-8")
    except json.JSONDecodeError as error:
        raise ValueError(
            f"{path}:{line or error.lineno}: not valid JSON ({error.msg} at column {error.colno})."
        ) from error
    except RecursionError as error:
        raise ValueError(f"{where}: not valid JSON (nested too deeply).") from error
    except UnicodeEncodeError as error:
        raise ValueError(f"{where}: not valid JSON (half a surrogate pair).") from error
    except ValueError as error:  # a number of thousands of digits
        raise ValueError(f"{where}: not valid JSON ({error}).") from error
    return value


def parse_object(data: bytes, path: str | Path, line: int | None = None) -> dict[str, Any]:
    """As :func:`parse_json`, for a value that must be an object."""
    value = parse_json(data, path, line)
    if not isinstance(value, dict):
        where = f"{path}:{line}" if line else str(path)
        raise ValueError(f"{where}: expected a JSON object, got {type(value).__name__}.")
    return value


def inside(folder: str | Path, *names: str) -> Path:
    """The path of a file that another file names, which must not lead out of the folder.

    Raises:
      ValueError: if it does.
    """
    parts = [part for name in names for part in name.split("/")]
    if any(not part or part == ".." or "\0" in part for part in parts):
        raise ValueError(f"{'/'.join(names)!r} is no path of a file in {folder}.")
    return Path(folder).joinpath(*parts)


def fingerprint(paths: Iterable[str | Path], *options: Any) -> str:
    """16 hexadecimal digits of the files' bytes, in order, and the options' representations."""
    digest = hashlib.sha256(repr(options).encode())
    for path in paths:
        if not Path(path).is_file():
            raise ValueError(f"{path} does not exist.")
        size, changed = files.stamp(str(path))
        small = size <= _MAX_HASHED_BYTES
        digest.update(files.sha256(str(path)) if small else f"{size} {changed}".encode())
    return digest.hexdigest()[:16]


def string(row: Mapping[str, Any], key: str, where: str, default: str | None = None) -> str:
    """A row's field that must be a string; `default` stands for one that is absent.

    Raises:
      ValueError: that starts with `where` and names the key.
    """
    value = row.get(key, default)
    if not isinstance(value, str):
        raise ValueError(f"{where}: {key!r} must be a string, got {value!r:.80}.")
    return value


def strings(row: Mapping[str, Any], key: str, where: str) -> tuple[str, ...]:
    """A row's field that must be a list of strings.

    Raises:
      ValueError: that starts with `where` and names the key.
    """
    value = row.get(key)
    if not isinstance(value, list | tuple) or not all(isinstance(v, str) for v in value):
        raise ValueError(f"{where}: {key!r} must be a list of strings, got {value!r:.80}.")
    return tuple(value)


def objects(row: Mapping[str, Any], key: str, where: str) -> list[Mapping[str, Any]]:
    """A row's field that must be a list of objects.

    Raises:
      ValueError: that starts with `where` and names the key, or the place in the list.
    """
    value = row.get(key)
    if not isinstance(value, list):
        raise ValueError(f"{where}: {key!r} must be a list of objects, got {value!r:.80}.")
    for index, item in enumerate(value):
        if not isinstance(item, Mapping):
            raise ValueError(f"{where}: {key}[{index}] must be an object, got {item!r:.80}.")
    return value
