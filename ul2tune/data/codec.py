"""One prepared example as bytes: token arrays by feature name, plus the fields evaluation needs.

Layout (little endian): ``b"U2E1"``, uint32 length of the header, the header as JSON
``{"arrays": {name: [dtype, length], …}, "fields": {…}}``, then the arrays back to back in header
order. Token ids are stored as uint16 where they fit, which halves the disk of vocabularies up to
65,536.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

MAGIC = b"U2E1"
_HEAD = struct.Struct("<4sI")


@dataclass(frozen=True, kw_only=True)
class Example:
    """A prepared example.

    Attributes:
      arrays: 1-D int32 token ids by SeqIO feature name (``inputs``, ``targets``).
      fields: JSON values that travel beside the tokens (raw references, answer choices, ids).
    """

    arrays: Mapping[str, np.ndarray]
    fields: Mapping[str, Any] = field(default_factory=dict)


def encode(example: Example) -> bytes:
    """Example -> bytes; deterministic, so equal examples give equal shards."""
    header: dict[str, Any] = {"arrays": {}, "fields": dict(example.fields)}
    chunks = []
    for name, array in sorted(example.arrays.items()):
        array = np.asarray(array)
        assert array.ndim == 1, (name, array.shape)
        assert array.dtype.kind in "iu", (name, array.dtype)
        small = array.size == 0 or (int(array.min()) >= 0 and int(array.max()) < 2**16)
        stored = array.astype("<u2" if small else "<i4")
        header["arrays"][name] = [stored.dtype.str, stored.size]
        chunks.append(stored.tobytes())
    text = json.dumps(header, sort_keys=True, ensure_ascii=False, separators=(",", ":")).encode()
    return b"".join([_HEAD.pack(MAGIC, len(text)), text, *chunks])


def decode(data: bytes) -> Example:
    """Bytes -> Example with int32 arrays.

    Raises:
      ValueError: if the bytes are not what :func:`encode` writes.
    """
    if len(data) < _HEAD.size or data[:4] != MAGIC:
        raise ValueError(f"Not a prepared example: starts with {data[:4]!r}, expected {MAGIC!r}.")
    _, size = _HEAD.unpack_from(data)
    header = json.loads(data[_HEAD.size : _HEAD.size + size])
    offset, arrays = _HEAD.size + size, {}
    for name, (dtype, length) in header["arrays"].items():
        stored = np.frombuffer(data, dtype=dtype, count=length, offset=offset)
        arrays[name] = stored.astype(np.int32)
        offset += stored.nbytes
    if offset != len(data):
        raise ValueError(f"Prepared example has {len(data)} bytes, its header describes {offset}.")
    return Example(arrays=arrays, fields=header["fields"])
