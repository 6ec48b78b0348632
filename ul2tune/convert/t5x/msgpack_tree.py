"""The `checkpoint` file of T5X's legacy format: Flax's msgpack, read and written without Flax.

Arrays are extension 1, NumPy scalars extension 3, both ``packb((shape, dtype name, bytes))``;
extension 2 is a complex number. msgpack cannot hold more than 2**32 bytes in one value, so Flax
splits arrays above 2**30 bytes into ``{"__msgpack_chunked_array__": True, "shape": {"0": …},
"chunks": {"0": flat array, …}}``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import msgpack
import numpy as np

from ul2tune.convert.t5x import folders

ARRAY, COMPLEX, SCALAR = 1, 2, 3
CHUNKED = "__msgpack_chunked_array__"
MAX_CHUNK_BYTES = 2**30
# What trees of other types than these end in.
_WRONG_TYPES = (TypeError, KeyError, AttributeError, RecursionError)


def loads(data: bytes, where: str) -> dict[str, Any]:
    """Decodes a file into nested dicts of arrays and plain values.

    Args:
      data: the file's content.
      where: its name, for errors.

    Raises:
      ValueError: if it is truncated, damaged or no msgpack of this kind.
    """
    try:
        tree = msgpack.unpackb(data, ext_hook=_extension, raw=False, strict_map_key=False)
        if not isinstance(tree, dict):
            raise ValueError(f"it holds a {type(tree).__name__}, not a tree")
        return _joined(tree)
    except (ValueError, ArithmeticError, *_WRONG_TYPES, msgpack.UnpackException) as error:
        raise ValueError(
            f"{where} cannot be read as T5X's msgpack: it is damaged, truncated, or something else "
            f"({type(error).__name__}: {str(error).rstrip('.')})."
        ) from error


def dumps(tree: Mapping[str, Any], max_chunk_bytes: int = MAX_CHUNK_BYTES) -> bytes:
    """Encodes nested dicts of arrays and plain values as Flax does.

    Args:
      tree: what to write.
      max_chunk_bytes: arrays with more bytes are split.
    """
    packed = msgpack.packb(_split(tree, max_chunk_bytes), default=_encode, strict_types=True)
    assert packed is not None
    return packed


def _extension(code: int, data: bytes) -> Any:
    if code == COMPLEX:
        return complex(*msgpack.unpackb(data))
    if code not in (ARRAY, SCALAR):
        raise ValueError(f"unknown extension type {code}")
    shape, dtype, buffer = msgpack.unpackb(data, raw=False)
    if any(type(size) is not int or size < 0 for size in shape):
        raise ValueError(f"impossible shape {shape}")
    kind = folders.dtype(dtype)
    if math.prod(shape) * kind.itemsize != len(buffer):
        raise ValueError(f"{len(buffer)} bytes for an array of shape {shape} and dtype {dtype}")
    return np.frombuffer(buffer, kind).reshape(shape)


def _encode(value: Any) -> msgpack.ExtType:
    if not isinstance(value, np.ndarray | np.generic):
        raise TypeError(f"cannot store {type(value).__name__}")
    code = ARRAY if isinstance(value, np.ndarray) else SCALAR
    content = (value.shape, value.dtype.name, value.tobytes())
    return msgpack.ExtType(code, msgpack.packb(content, use_bin_type=True))


def _joined(node: Any) -> Any:
    """Puts split arrays together again."""
    if not isinstance(node, dict):
        return node
    if CHUNKED not in node:
        return {str(key): _joined(value) for key, value in node.items()}
    shape, chunks = ([node[part][str(i)] for i in range(len(node[part]))] for part in _PARTS)
    flat = np.concatenate([np.ravel(chunk) for chunk in chunks])
    return flat.reshape([int(size) for size in shape])


_PARTS = ("shape", "chunks")


def _split(node: Any, max_bytes: int) -> Any:
    if isinstance(node, Mapping):
        return {key: _split(value, max_bytes) for key, value in node.items()}
    if not isinstance(node, np.ndarray) or node.nbytes <= max_bytes:
        return node
    flat, step = node.ravel(), max(1, max_bytes // node.itemsize)
    pieces = [flat[start : start + step] for start in range(0, flat.size, step)]
    values = (node.shape, pieces)
    return {
        CHUNKED: True,
        **{part: {str(i): x for i, x in enumerate(xs)} for part, xs in zip(_PARTS, values)},
    }
