"""Finding and opening input files: local or remote, plain, gzip or zstandard.

Remote ones go through fsspec, or etils.epath where fsspec is not installed; neither is imported for
local files.
"""

from __future__ import annotations

import contextlib
import functools
import glob
import gzip
import hashlib
import io
import os
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any, BinaryIO, cast

_GZIP = (".gz",)
_ZSTANDARD = (".zst", ".zstd")
_CHUNK_BYTES = 2**20
# A file that changed a moment ago may change again without another time: file systems count in
# steps of up to so much.
_SETTLED_NANOSECS = 3 * 10**9


def is_compressed(file: str) -> bool:
    return file.endswith((*_GZIP, *_ZSTANDARD))


def expand(patterns: str | Sequence[str]) -> list[str]:
    """Paths and globs -> existing files, sorted within each pattern, each once.

    Raises:
      ValueError: if a pattern matches nothing.
    """
    found: dict[str, None] = {}
    for pattern in [patterns] if isinstance(patterns, str) else patterns:
        matches = _remote_glob(pattern) if "://" in pattern else _local_glob(pattern)
        if not matches:
            raise ValueError(_nothing(pattern))
        found.update(dict.fromkeys(matches))
    return list(found)


@contextlib.contextmanager
def open_binary(file: str) -> Iterator[BinaryIO]:
    """Opens a file for reading, decompressing by its name's ending.

    Raises:
      ValueError: if an archive is damaged, truncated or no archive; mostly only once it is read.
    """
    with open_counted(file) as (stream, _):
        yield stream


@contextlib.contextmanager
def open_counted(file: str) -> Iterator[tuple[BinaryIO, Callable[[], int]]]:
    """As :func:`open_binary`, with a function that returns how many bytes of the stored file have
    been read so far."""
    if is_compressed(file) and not stamp(file)[0]:
        raise _damaged(file, "it is empty, so it is no archive")
    with _open_raw(file) as raw:
        if file.endswith(_GZIP):
            try:
                with gzip.GzipFile(fileobj=raw, mode="rb") as stream:
                    yield cast(BinaryIO, stream), raw.tell
            except (EOFError, gzip.BadGzipFile, zlib.error) as error:
                raise _damaged(file, error) from error
        elif file.endswith(_ZSTANDARD):
            with io.BufferedReader(_Zstandard(file, raw), _CHUNK_BYTES) as stream:
                yield stream, raw.tell
        else:
            yield raw, raw.tell


def stamp(file: str) -> tuple[int, str]:
    """(bytes, time of change) of a file as stored."""
    if "://" not in file:
        status = os.stat(file)
        return status.st_size, str(status.st_mtime_ns)
    with contextlib.suppress(ImportError):
        import fsspec

        filesystem, path = fsspec.core.url_to_fs(file)
        facts = filesystem.info(path)
        changed = facts.get("mtime") or facts.get("LastModified") or facts.get("created")
        return int(facts["size"]), str(changed)
    from etils import epath

    status = epath.Path(file).stat()
    return int(status.length), str(status.mtime)


def sha256(file: str) -> bytes:
    """Digest of a file as stored. Kept as long as it is the same file with the same size and times:
    fingerprints of every split, vocabularies and stamps ask for that of the same text."""
    if "://" not in file:
        status = os.stat(file)
        if time.time_ns() - status.st_mtime_ns > _SETTLED_NANOSECS:
            # Who writes a file in place can put its time back, but not that of this change.
            times = (status.st_mtime_ns, status.st_ctime_ns)
            identity = (status.st_dev, status.st_ino, status.st_size, *times)
            return _kept_sha256(os.path.abspath(file), identity)
    elif (identity := stamp(file))[1] != str(None):  # not every remote file has a time
        return _kept_sha256(file, identity)
    return read_sha256(file)


@functools.lru_cache(maxsize=2**16)
def _kept_sha256(file: str, identity: tuple[Any, ...]) -> bytes:
    del identity  # with the path, what it is kept by
    return read_sha256(file)


def read_sha256(file: str) -> bytes:
    """Digest of a file as stored, read now."""
    with _open_raw(file) as stream:
        return hashlib.file_digest(cast(Any, stream), "sha256").digest()


def _nothing(pattern: str) -> str:
    """Says that a pattern matches no file, and what is there instead."""
    if "://" in pattern:
        return f"No file matches {pattern!r}."
    path = os.path.expanduser(pattern)
    for folder in (path, *sorted(glob.glob(path, recursive=True))):
        if os.path.isdir(folder):
            inside = os.path.join(folder, "*.txt")
            return f"{pattern!r} names a folder, not files: write, for example, {inside!r}."
    where = f"which is {path!r}" if path != pattern else f"working directory {os.getcwd()}"
    return f"No file matches {pattern!r} ({where})."


def _local_glob(pattern: str) -> list[str]:
    pattern = os.path.expanduser(pattern)
    if os.path.isfile(pattern):  # also names that hold glob characters
        return [pattern]
    return sorted(path for path in glob.glob(pattern, recursive=True) if os.path.isfile(path))


def _remote_glob(pattern: str) -> list[str]:
    with contextlib.suppress(ImportError):
        import fsspec

        filesystem, path = fsspec.core.url_to_fs(pattern)
        return sorted(filesystem.unstrip_protocol(match) for match in filesystem.glob(path))
    from etils import epath

    path = epath.Path(pattern)
    return sorted(str(match) for match in path.parent.glob(path.name))


def _open_raw(file: str) -> BinaryIO:
    if "://" not in file:
        return open(file, "rb")
    with contextlib.suppress(ImportError):
        import fsspec

        return cast(Any, fsspec.open(file, "rb")).open()
    from etils import epath

    return cast(BinaryIO, epath.Path(file).open("rb"))


class _Zstandard(io.RawIOBase):
    """Decompresses frame after frame, and knows when the last one is cut off.

    The package's own reader stops silently after one frame or at the end of half a frame.
    """

    def __init__(self, file: str, raw: BinaryIO):
        import zstandard

        self._file, self._raw, self._error = file, raw, zstandard.ZstdError
        self._new_frame = zstandard.ZstdDecompressor().decompressobj
        self._frame: Any = None
        self._packed = self._plain = b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._plain and self._fill():
            pass
        size = min(len(buffer), len(self._plain))
        buffer[:size], self._plain = self._plain[:size], self._plain[size:]
        return size

    def _fill(self) -> bool:
        """Decompresses some more; False at the end of the file."""
        self._packed = self._packed or self._raw.read(_CHUNK_BYTES)
        if not self._packed:
            if self._frame is not None:
                raise _damaged(self._file, "it ends inside a frame")
            return False
        self._frame = self._frame or self._new_frame()
        try:
            self._plain = self._frame.decompress(self._packed)
        except self._error as error:
            raise _damaged(self._file, error) from error
        self._packed = self._frame.unused_data if self._frame.eof else b""
        self._frame = None if self._frame.eof else self._frame
        return True


def _damaged(file: str, reason: object) -> ValueError:
    return ValueError(f"{file} is damaged or not what its name says: {reason}.")
