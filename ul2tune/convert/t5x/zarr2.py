"""One array in the zarr v2 format, as TensorStore writes it for T5X: read and write, with NumPy.

A folder with ``.zarray`` (JSON: shape, chunk shape, dtype, compressor) and one file per chunk,
named by its place in the grid: ``0.0``, ``0.1``, …; a scalar has the one chunk ``0``. Chunks at the
far edges are stored whole. A chunk that is missing is all `fill_value`; where that is null,
TensorStore reads zeros, but writes all chunks.

Specification: https://zarr-specs.readthedocs.io/en/latest/v2/v2.0.html
"""

from __future__ import annotations

import gzip
import json
import math
import re
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ul2tune.convert.t5x import folders
from ul2tune.convert.t5x.folders import Folder

METADATA = ".zarray"
# What T5X aims at.
CHUNK_BYTES = 64 * 2**20
# Refused before memory is taken: ten times the largest array of any released model.
MAX_BYTES = 2**37
# compressor -> zlib's window bits; + 16 reads gzip.
_COMPRESSORS = {"gzip": 16 + zlib.MAX_WBITS, "zlib": zlib.MAX_WBITS}
_CHUNK = re.compile(r"(0|[1-9]\d{0,17})(\.(0|[1-9]\d{0,17}))*", re.ASCII)


@dataclass(frozen=True, kw_only=True)
class Header:
    """What ``.zarray`` says, checked."""

    shape: tuple[int, ...]
    chunks: tuple[int, ...]
    dtype: np.dtype
    compressor: str | None
    fill_value: Any

    @property
    def grid(self) -> tuple[int, ...]:
        return tuple(-(-size // chunk) for size, chunk in zip(self.shape, self.chunks))


def read_header(folder: Folder, name: str) -> Header:
    """Reads and checks the header of the array `name`.

    Raises:
      ValueError: if it is missing, damaged, absurd, or of a kind that T5X does not write.
    """
    where = f"{folder.path}/{name}/{METADATA}"
    text = folder.read(f"{name}/{METADATA}")
    if text is None:
        raise ValueError(f"{where} is missing: the checkpoint is incomplete. Copy it again.")
    try:
        raw = json.loads(text)
        compressor = raw["compressor"]
        header = Header(
            shape=tuple(raw["shape"]),
            chunks=tuple(raw["chunks"]),
            dtype=folders.dtype(raw["dtype"]),
            compressor=None if compressor is None else str(compressor["id"]),
            fill_value=raw.get("fill_value"),
        )
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ValueError(f"{where} is damaged ({type(error).__name__}: {error}).") from error
    wrong = _problem(header, raw)
    if wrong:
        raise ValueError(f"{where} {wrong}.")
    return header


def _problem(header: Header, raw: dict[str, Any]) -> str | None:
    sizes = (*header.shape, *header.chunks)
    if any(type(size) is not int or size < 0 for size in sizes) or 0 in header.chunks:
        return f"has impossible sizes: shape {header.shape}, chunks {header.chunks}"
    if len(header.shape) != len(header.chunks):
        return f"has chunks of rank {len(header.chunks)} for an array of rank {len(header.shape)}"
    for what, size in (("array", header.shape), ("chunk", header.chunks)):
        if math.prod(size) * header.dtype.itemsize > MAX_BYTES or len(size) > 32:
            return f"claims an {what} of shape {size}, which is absurd: the file is damaged"
    if raw.get("zarr_format") != 2:
        return f"has zarr format {raw.get('zarr_format')!r}; T5X writes 2"
    if raw.get("filters"):
        return f"uses filters {raw['filters']!r}, which T5X does not write"
    if header.compressor is not None and header.compressor not in _COMPRESSORS:
        return f"is compressed with {header.compressor!r}; this reads {', '.join(_COMPRESSORS)}"
    for key, only in (("dimension_separator", "."), ("order", "C")):
        if raw.get(key, only) != only:
            return f"has {key} {raw[key]!r}; T5X writes {only!r}"
    numbers = (None, "NaN", "Infinity", "-Infinity")
    value = header.fill_value
    if value not in numbers and not (isinstance(value, int | float) and abs(value) < 1e300):
        return f"has the fill value {str(value)[:80]!r}, which is no number"
    return None


def read(folder: Folder, name: str, *, whole: bool = False) -> np.ndarray:
    """Reads the array `name`, in its stored dtype.

    Args:
      folder: where it is.
      name: its folder there.
      whole: refuse missing chunks, if the header has no value for them.

    Raises:
      ValueError: as :func:`read_header`, and for damaged, truncated or missing chunks.
    """
    header = read_header(folder, name)
    try:
        array = np.zeros(header.shape, header.dtype)  # costs no memory until it is written
        if header.fill_value:
            array[...] = float(header.fill_value)
    except MemoryError as error:
        raise ValueError(
            f"{folder.path}/{name}: no memory for an array of shape {header.shape}."
        ) from error
    # Listed, not counted up: an absurdly fine grid costs nothing where there are no files.
    found = 0
    for file in folders.open_folder(f"{folder.path}/{name}").names():
        index = _index(file, header.grid)
        if index is not None:
            found += _put(array, index, header, folder, f"{name}/{file}")
    if whole and header.fill_value is None and found != math.prod(header.grid):
        raise ValueError(
            f"{folder.path}/{name} has {found} of {math.prod(header.grid)} chunks: the checkpoint "
            f"is incomplete. Copy it again."
        )
    return array


def _index(file: str, grid: tuple[int, ...]) -> tuple[int, ...] | None:
    """The place in the grid that a file's name means; None if it is no chunk."""
    if not _CHUNK.fullmatch(file):
        return None
    index = tuple(map(int, file.split(".")))
    if not grid:
        return () if index == (0,) else None
    fits = len(index) == len(grid) and all(i < n for i, n in zip(index, grid))
    return index if fits else None


def _put(
    array: np.ndarray, index: tuple[int, ...], header: Header, folder: Folder, name: str
) -> bool:
    """Fills in one chunk; returns whether there is such a file."""
    data = folder.read(name)
    if data is None:
        return False
    size = math.prod(header.chunks) * header.dtype.itemsize
    plain = _decompress(data, size, header, f"{folder.path}/{name}")
    chunk = np.frombuffer(plain, header.dtype).reshape(header.chunks)
    region = tuple(
        slice(i * step, min((i + 1) * step, total))
        for i, step, total in zip(index, header.chunks, header.shape)
    )
    array[region] = chunk[tuple(slice(0, r.stop - r.start) for r in region)]
    return True


def _decompress(data: bytes, size: int, header: Header, where: str) -> bytes:
    """Exactly `size` bytes, or an error; never more memory than that."""
    try:
        if header.compressor is None:
            plain, complete = data, True
        else:
            stream = zlib.decompressobj(_COMPRESSORS[header.compressor])
            plain = stream.decompress(data, size + 1)
            complete = stream.eof
    except zlib.error as error:
        raise ValueError(f"{where} is damaged ({error}). Copy the checkpoint again.") from error
    if not complete or len(plain) != size:
        held = "at least " * (len(plain) > size) + str(len(plain))
        raise ValueError(
            f"{where} holds {held} bytes{'' if complete else ' and then breaks off'}; its header "
            f"promises {size}. The file is truncated or damaged: copy the checkpoint again."
        )
    return plain


def write(folder: Folder, name: str, array: np.ndarray, chunk_bytes: int = CHUNK_BYTES) -> None:
    """Writes `array` as T5X does: C order, gzip level 1, chunks that divide it."""
    chunks = chunk_shape(array.shape, max(1, chunk_bytes // array.dtype.itemsize))
    folder.write(f"{name}/{METADATA}", _header_json(array, chunks))
    if array.ndim == 0:
        folder.write(f"{name}/0", _compress(array))
        return
    for index in np.ndindex(*(size // chunk for size, chunk in zip(array.shape, chunks))):
        region = tuple(slice(i * step, (i + 1) * step) for i, step in zip(index, chunks))
        folder.write(f"{name}/{'.'.join(map(str, index))}", _compress(array[region]))


def spec(array: np.ndarray, chunk_bytes: int = CHUNK_BYTES) -> dict[str, Any]:
    """What T5X's msgpack file repeats of the header."""
    chunks = chunk_shape(array.shape, max(1, chunk_bytes // array.dtype.itemsize))
    compressor = {"id": "gzip", "level": 1}
    return {"chunks": list(chunks), "compressor": compressor, "shape": list(array.shape)}


def _compress(array: np.ndarray) -> bytes:
    return gzip.compress(array.tobytes(), compresslevel=1, mtime=0)


def _header_json(array: np.ndarray, chunks: Sequence[int]) -> bytes:
    is_bfloat16 = array.dtype.name == "bfloat16"
    header = {
        **spec(array),
        "chunks": list(chunks),
        "dimension_separator": ".",
        "dtype": "bfloat16" if is_bfloat16 else array.dtype.str,
        "fill_value": None,
        "filters": None,
        "order": "C",
        "zarr_format": 2,
    }
    return json.dumps(header, separators=(",", ":"), sort_keys=True).encode()


def chunk_shape(shape: Sequence[int], max_elements: int) -> tuple[int, ...]:
    """The chunk shape that T5X chooses: its largest dimension (the first of equals) is replaced by
    its next smaller divisor until the chunk has at most `max_elements`."""
    chunks = list(shape)
    while math.prod(chunks) > max_elements:
        dim = chunks.index(max(chunks))
        chunks[dim] = next(n for n in range(chunks[dim] - 1, 0, -1) if shape[dim] % n == 0)
    return tuple(chunks)
