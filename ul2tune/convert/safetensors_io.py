"""The safetensors format, read and written by streaming, every byte of the header distrusted.

    8 bytes   N, the length of the header, little-endian
    N bytes   JSON: {"name": {"dtype": "BF16", "shape": [2, 3], "data_offsets": [begin, end]}, …,
              "__metadata__": {"key": "value"}}, perhaps padded with spaces
    the rest  the tensors, row-major, at those offsets: no gap, no overlap, nothing behind them

(https://huggingface.co/docs/safetensors). Files come from strangers. A header is checked whole
before a tensor is read, and reading one never allocates more than its bytes in the file. The
`safetensors` package checks most of this too; ours also refuses duplicate names, special files and
absurd ranks, says which file and tensor it was, and reads without a mapping, whose pages would
count as memory in use.
"""

from __future__ import annotations

import io
import json
import math
import os
import stat
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

# Everything of the format that NumPy can hold; F8 and packed 4-bit types are for quantised models.
DTYPES: Mapping[str, np.dtype] = {
    "BOOL": np.dtype(np.bool_),
    "U8": np.dtype(np.uint8),
    "I8": np.dtype(np.int8),
    "U16": np.dtype("<u2"),
    "I16": np.dtype("<i2"),
    "U32": np.dtype("<u4"),
    "I32": np.dtype("<i4"),
    "U64": np.dtype("<u8"),
    "I64": np.dtype("<i8"),
    "F16": np.dtype("<f2"),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "F32": np.dtype("<f4"),
    "F64": np.dtype("<f8"),
}
MAX_HEADER_BYTES = 100_000_000  # the limit of the safetensors package
MAX_RANK = 16
METADATA = "__metadata__"


@dataclass(frozen=True, kw_only=True)
class TensorInfo:
    """What a header says about one tensor.

    Attributes:
      dtype: a key of :data:`DTYPES`.
      shape: sizes.
      begin, end: bytes of the file.
    """

    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int


@dataclass(frozen=True, kw_only=True)
class SafetensorsFile:
    """A checked file; :func:`open_file` makes it. The file is not kept open.

    Attributes:
      path: where it is.
      tensors: by name, in the order of their bytes.
      metadata: the strings of the header.
    """

    path: Path
    tensors: Mapping[str, TensorInfo]
    metadata: Mapping[str, str]

    def read(self, name: str) -> np.ndarray:
        """Returns one tensor in its stored dtype, in memory of its own.

        Raises:
          ValueError: if the file has become shorter.
        """
        info = self.tensors[name]
        data = next(self.pieces(name, info.end - info.begin), np.empty(0, np.uint8))
        return data.view(DTYPES[info.dtype]).reshape(info.shape)

    def pieces(self, name: str, size: int) -> Iterator[np.ndarray]:
        """Yields the bytes of one tensor, `size` at a time."""
        info = self.tensors[name]
        with open_regular(self.path) as file:
            file.seek(info.begin)
            for begin in range(info.begin, info.end, max(size, 1)):
                wanted = min(size, info.end - begin)
                data = np.fromfile(file, np.uint8, wanted)
                if data.size != wanted:
                    raise ValueError(f"{self.path} ends inside tensor {name!r}: it was cut off.")
                yield data


def open_regular(path: Path) -> io.FileIO:
    """Opens a regular file for reading; never waits at a pipe or a device.

    Raises:
      ValueError: if it is anything else, or not there.
    """
    try:
        file = io.FileIO(os.open(path, os.O_RDONLY | os.O_NONBLOCK))
    except OSError as error:
        raise ValueError(f"{path} cannot be opened ({error.strerror}).") from error
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise ValueError(f"{path} is not a regular file.")
    return file


def parse_json(data: bytes, where: str) -> dict[str, Any]:
    """Parses a JSON object from a stranger.

    Raises:
      ValueError: if it is no JSON object, repeats a key, nests too deep, or holds NaN.
    """

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        result = dict(pairs)
        if len(result) != len(pairs):
            names = [key for key, _ in pairs]
            twice = next(key for key in names if names.count(key) > 1)
            raise ValueError(f"the key {twice[:100]!r} occurs twice")
        return result

    def constant(text: str) -> Any:
        raise ValueError(f"{text} is no JSON")

    try:
        value = json.loads(data.decode("utf-8"), object_pairs_hook=unique, parse_constant=constant)
    except (ValueError, RecursionError) as error:
        reason = str(error) if isinstance(error, ValueError) else "it nests too deep"
        raise ValueError(f"{where} is not valid: {reason[:200]}.") from None
    if not isinstance(value, dict):
        raise ValueError(f"{where} is not valid: it must be a JSON object.")
    return value


def open_file(path: str | Path) -> SafetensorsFile:
    """Reads and checks the header of one file.

    Raises:
      ValueError: naming file, tensor and reason, if anything about it is not as the format says.
    """
    path = Path(path)
    with open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        prefix = file.read(8)
        if len(prefix) < 8:
            raise ValueError(f"{path} is no safetensors file: it has only {size} bytes.")
        length = int.from_bytes(prefix, "little")
        if length > MAX_HEADER_BYTES:
            raise ValueError(
                f"{path} is no safetensors file, or hostile: it claims a header of {length} bytes "
                f"(at most {MAX_HEADER_BYTES} are allowed)."
            )
        if 8 + length > size:
            raise ValueError(
                f"{path} is cut off: its header needs {8 + length} bytes, it has {size}."
            )
        data = file.read(length)
    if data[:1] != b"{":
        raise ValueError(f"{path} is no safetensors file: its header does not begin with '{{'.")
    header = parse_json(data, f"The header of {path}")
    metadata = header.pop(METADATA, {})
    if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
        raise ValueError(f"The header of {path} is not valid: {METADATA} must map text to text.")
    tensors = {name: _tensor(path, name, entry, 8 + length) for name, entry in header.items()}
    ordered = dict(sorted(tensors.items(), key=lambda item: (item[1].begin, item[1].end)))
    _check_layout(path, ordered, 8 + length, size)
    return SafetensorsFile(path=path, tensors=ordered, metadata=metadata)


def _tensor(path: Path, name: str, entry: Any, start: int) -> TensorInfo:
    """One entry of the header, its types and sizes checked against each other."""
    where = f"Tensor {name[:200]!r} of {path}"
    if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
        raise ValueError(f"{where} must have exactly dtype, shape and data_offsets.")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in DTYPES:
        raise ValueError(
            f"{where} has dtype {str(dtype)[:40]!r}; this reader knows {', '.join(DTYPES)}."
        )
    for key, value in (("shape", shape), ("data_offsets", offsets)):
        if not isinstance(value, list) or not all(type(n) is int and n >= 0 for n in value):
            raise ValueError(f"{where} has {key} {str(value)[:80]}: not a list of sizes.")
    if len(shape) > MAX_RANK:
        raise ValueError(f"{where} has {len(shape)} dimensions; at most {MAX_RANK} are allowed.")
    if len(offsets) != 2:
        raise ValueError(f"{where} has data_offsets {str(offsets)[:80]}: not begin and end.")
    needed = math.prod(shape) * DTYPES[dtype].itemsize
    if offsets[1] - offsets[0] != needed:
        raise ValueError(
            f"{where} is {dtype}{shape}, {needed} bytes, but occupies bytes {offsets[0]} to "
            f"{offsets[1]}."
        )
    return TensorInfo(
        dtype=dtype, shape=tuple(shape), begin=start + offsets[0], end=start + offsets[1]
    )


def _check_layout(path: Path, ordered: Mapping[str, TensorInfo], start: int, size: int) -> None:
    position = start
    for name, info in ordered.items():
        if info.begin != position:
            what = "overlaps the one before it" if info.begin < position else "leaves a gap"
            raise ValueError(f"Tensor {name[:200]!r} of {path} {what}.")
        position = info.end
    if position > size:
        raise ValueError(f"{path} is cut off: its tensors need {position} bytes, it has {size}.")
    if position < size:
        raise ValueError(f"{path} has {size - position} bytes that belong to no tensor.")


@dataclass(frozen=True, kw_only=True)
class Entry:
    """A tensor to be written: its name, dtype (a key of :data:`DTYPES`) and shape."""

    name: str
    dtype: str
    shape: tuple[int, ...]

    @property
    def num_bytes(self) -> int:
        return math.prod(self.shape) * DTYPES[self.dtype].itemsize


def write_file(
    path: Path,
    entries: Sequence[Entry],
    produce: Callable[[Entry], np.ndarray],
    metadata: Mapping[str, str],
) -> None:
    """Writes one file, a tensor at a time; the same tensors give the same bytes.

    `produce` returns a tensor in the dtype and shape of its entry.
    """
    header: dict[str, Any] = {METADATA: dict(metadata)} if metadata else {}
    position = 0
    for entry in entries:
        offsets = [position, position + entry.num_bytes]
        header[entry.name] = {
            "dtype": entry.dtype,
            "shape": list(entry.shape),
            "data_offsets": offsets,
        }
        position = offsets[1]
    data = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode("utf-8")
    data += b" " * (-len(data) % 8)  # tensors begin at a multiple of 8
    with path.open("xb") as file:
        file.write(len(data).to_bytes(8, "little") + data)
        for entry in entries:
            value = produce(entry)
            assert value.dtype == DTYPES[entry.dtype], (entry, value.dtype)
            assert value.shape == entry.shape, (entry, value.shape)
            # Not `tofile`, which does not say why it failed.
            file.write(np.ascontiguousarray(value).reshape(-1).view(np.uint8).data)
        file.flush()
        os.fsync(file.fileno())


def shard(entries: Iterable[Entry], max_bytes: int) -> list[list[Entry]]:
    """Cuts a list of tensors into files of at most `max_bytes` (or one larger tensor)."""
    files: list[list[Entry]] = []
    room = 0
    for entry in entries:
        if not files or entry.num_bytes > room:
            files.append([])
            room = max_bytes
        files[-1].append(entry)
        room -= entry.num_bytes
    return files
