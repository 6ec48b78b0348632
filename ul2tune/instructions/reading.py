"""Reading a collection's files: errors that name the file, and fingerprints of what was read."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any


def read_bytes(path: str | Path) -> bytes:
    """A file's bytes.

    Raises:
      ValueError: if there is no such file.
    """
    try:
        return Path(path).read_bytes()
    except FileNotFoundError as error:
        raise ValueError(f"{path} does not exist.") from error


def read_text(path: str | Path) -> str:
    """A file's text, line ends as they are.

    Raises:
      ValueError: if there is no such file or it is not UTF-8.
    """
    try:
        return read_bytes(path).decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not valid UTF-8 ({error}).") from error


def read_json(path: str | Path) -> Any:
    """A file's JSON value.

    Raises:
      ValueError: naming file and line of what is wrong.
    """
    try:
        return json.loads(read_text(path))
    except json.JSONDecodeError as error:
        raise ValueError(f"{path}:{error.lineno}: not valid JSON ({error.msg}).") from error


def fingerprint(paths: Iterable[str | Path], *options: Any) -> str:
    """16 hexadecimal digits of the files' bytes, in order, and the options' representations."""
    digest = hashlib.sha256(repr(options).encode())
    for path in paths:
        data = read_bytes(path)
        digest.update(len(data).to_bytes(8, "little") + data)
    return digest.hexdigest()[:16]
