"""Random access to the prepared examples of one task."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from array_record.python.array_record_module import ArrayRecordReader

from ul2tune.data import codec, manifest

_CHUNK_BYTES = 1 << 20


class Store:
    """The shards of one prepared task as one sequence of examples.

    Args:
      data_dir: where `prepare` wrote.
      task_manifest: which shards there are.
      verify_checksums: read every shard and compare its SHA-256.

    Raises:
      ValueError: if a shard is missing, has another size or (if asked) another checksum.
    """

    def __init__(
        self,
        data_dir: str | Path,
        task_manifest: manifest.TaskManifest,
        *,
        verify_checksums: bool = False,
    ):
        self._manifest = task_manifest
        self._folder = manifest.task_dir(data_dir, task_manifest.task, task_manifest.split)
        counts = [shard.num_examples for shard in task_manifest.shards]
        self._starts = np.concatenate([[0], np.cumsum(np.array(counts, np.int64))])
        # Opened on first use: a worker of a mixture of a thousand tasks holds only what it reads.
        self._readers: dict[int, ArrayRecordReader] = {}
        for shard in task_manifest.shards:
            self._check(shard, verify_checksums)

    def __len__(self) -> int:
        return int(self._starts[-1])

    def read(self, indices: Sequence[int] | np.ndarray) -> list[codec.Example]:
        """Examples by index, in the order asked for.

        Raises:
          ValueError: if a shard is damaged; names the file.
        """
        indices = np.asarray(indices, np.int64)
        assert indices.size == 0 or 0 <= indices.min() <= indices.max() < len(self), indices
        shard_N = np.searchsorted(self._starts, indices, side="right") - 1
        examples: list[codec.Example] = [None] * len(indices)  # type: ignore[list-item]
        for shard in np.unique(shard_N):
            wanted = np.flatnonzero(shard_N == shard)
            records = self._records(int(shard), indices[wanted] - self._starts[shard])
            for i, record in zip(wanted, records, strict=True):
                examples[i] = record
        return examples

    def close(self) -> None:
        """Closes the files."""
        for reader in self._readers.values():
            reader.close()
        self._readers.clear()

    def _records(self, shard: int, positions: np.ndarray) -> list[codec.Example]:
        path = self._folder / self._manifest.shards[shard].file
        try:
            reader = self._reader(shard, path)
            return [codec.decode(record) for record in reader.read(positions.tolist())]
        except (ValueError, RuntimeError, IndexError, OSError) as error:
            raise ValueError(
                f"{path} is damaged ({error}). Delete it and run `ul2tune prepare` again; only "
                "what is missing is made."
            ) from error

    def _reader(self, shard: int, path: Path) -> ArrayRecordReader:
        if shard not in self._readers:
            # Records are read here and there: reading ahead would fetch what nobody wants.
            reader = ArrayRecordReader(str(path), "readahead_buffer_size:0")
            if reader.num_records() != (want := self._manifest.shards[shard].num_examples):
                found = reader.num_records()
                reader.close()
                raise ValueError(f"it holds {found} examples, the manifest says {want}")
            self._readers[shard] = reader
        return self._readers[shard]

    def _check(self, shard: manifest.Shard, verify_checksums: bool) -> None:
        path = self._folder / shard.file
        again = "Delete it and run `ul2tune prepare` again; only what is missing is made."
        if not path.is_file():
            raise ValueError(f"{path} is missing, but the manifest names it. {again}")
        if (size := path.stat().st_size) != shard.num_bytes:
            raise ValueError(
                f"{path} has {size} bytes, the manifest says {shard.num_bytes}. {again}"
            )
        if verify_checksums and (found := _sha256(path)) != shard.sha256:
            raise ValueError(
                f"{path} has SHA-256 {found[:12]}…, the manifest says {shard.sha256[:12]}…. {again}"
            )


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()
