"""Folders, local or remote: all that the T5X converters do with files goes through here.

Remote ones (``gs://…``) go through fsspec and the package it wants for the protocol (gcsfs);
neither is imported for local folders.
"""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path
from typing import Any, Protocol

import ml_dtypes
import numpy as np


class Folder(Protocol):
    """One folder. Names are relative, with "/" between parts; they are trusted (see `inside`)."""

    path: str

    def names(self) -> list[str]:
        """Names of the files and folders directly in it, sorted; [] if it does not exist."""
        ...

    def read(self, name: str) -> bytes | None:
        """The content of a file; None if there is no such file.

        Raises:
          ValueError: if it is a link that leads out of the folder.
        """
        ...

    def write(self, name: str, data: bytes) -> None:
        """Writes a file and the folders it needs."""
        ...

    def is_folder(self, name: str) -> bool: ...

    def move(self, name: str, to: str, last: str) -> None:
        """Renames a folder; where that is not atomic, its file `last` arrives after all others."""
        ...

    def remove(self, name: str) -> None:
        """Deletes a folder if there is one."""
        ...


def open_folder(path: str | os.PathLike[str]) -> Folder:
    """A folder that may or may not exist."""
    path = os.fspath(path)
    return _Remote(path) if "://" in path else _Local(path)


def parent(path: str | os.PathLike[str]) -> tuple[str, str]:
    """Splits off the last part of a path, local or remote."""
    path = os.fspath(path)
    if "://" not in path:
        path = os.path.abspath(os.path.expanduser(path))
        return os.path.split(path)
    head, _, tail = path.rstrip("/").rpartition("/")
    return head, tail


def inside(name: str, where: str) -> str:
    """A relative name taken from a file, normalised.

    Raises:
      ValueError: if it leads out of its folder.
    """
    parts = [part for part in name.split("/") if part not in ("", ".")]
    if not parts or name.startswith("/") or ".." in parts or "\\" in name or "\0" in name:
        raise ValueError(
            f"{where} refers to the file {name!r}, which is not inside the checkpoint. The "
            f"checkpoint is damaged or hostile; nothing was read from there."
        )
    return "/".join(parts)


class _Local:
    def __init__(self, path: str):
        self.path = os.path.abspath(os.path.expanduser(path))
        self._root = Path(self.path)

    def names(self) -> list[str]:
        return sorted(os.listdir(self._root)) if self._root.is_dir() else []

    def read(self, name: str) -> bytes | None:
        file = self._root / name
        if not file.is_file():
            return None
        if not file.resolve().is_relative_to(self._root.resolve()):
            raise ValueError(f"{file} is a link that leads out of the folder; it is not followed.")
        return file.read_bytes()

    def write(self, name: str, data: bytes) -> None:
        file = self._root / name
        file.parent.mkdir(parents=True, exist_ok=True)
        with file.open("wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())

    def is_folder(self, name: str) -> bool:
        return (self._root / name).is_dir()

    def move(self, name: str, to: str, last: str) -> None:
        del last  # one rename
        (self._root / name).rename(self._root / to)

    def remove(self, name: str) -> None:
        if self.is_folder(name):
            shutil.rmtree(self._root / name)


class _Remote:
    def __init__(self, path: str):
        import fsspec

        self.path = path.rstrip("/")
        self._files: Any
        self._files, self._root = fsspec.core.url_to_fs(self.path)
        self._root = self._root.rstrip("/")

    def names(self) -> list[str]:
        if not self._files.isdir(self._root):
            return []
        found = self._files.ls(self._root, detail=False)
        return sorted({name.rstrip("/").rpartition("/")[2] for name in found})

    def read(self, name: str) -> bytes | None:
        try:
            return self._files.cat_file(f"{self._root}/{name}")
        except FileNotFoundError:
            return None

    def write(self, name: str, data: bytes) -> None:
        file = f"{self._root}/{name}"
        self._files.makedirs(file.rpartition("/")[0], exist_ok=True)
        self._files.pipe_file(file, data)

    def is_folder(self, name: str) -> bool:
        return bool(self._files.isdir(f"{self._root}/{name}"))

    def move(self, name: str, to: str, last: str) -> None:
        source = f"{self._root}/{name}"
        files = [file.removeprefix(f"{source}/") for file in self._files.find(source)]
        for file in sorted(files, key=lambda file: file == last):
            target = f"{self._root}/{to}/{file}"
            self._files.makedirs(target.rpartition("/")[0], exist_ok=True)
            self._files.mv(f"{source}/{file}", target)
        self.remove(name)

    def remove(self, name: str) -> None:
        if self.is_folder(name):
            self._files.rm(f"{self._root}/{name}", recursive=True)


def temporary_name(name: str) -> str:
    """T5X's name of a checkpoint that is being written: with the time, here to the nanosecond."""
    return f"{name}.tmp-{time.time_ns()}"  # two exports may begin in one second


def dtype(name: str) -> np.dtype:
    """A dtype from its name in a checkpoint ("float32", "<f4", "bfloat16").

    Raises:
      ValueError: for objects, texts and everything else that is not a number.
    """
    if name == "bfloat16":
        return np.dtype(ml_dtypes.bfloat16)
    try:
        found = np.dtype(name)
    except (TypeError, ValueError, SyntaxError):  # "(2,": NumPy evaluates it
        found = np.dtype(object)
    if found.kind not in "biufc":
        raise ValueError(f"dtype {name!r} is not one of numbers.")
    return found
