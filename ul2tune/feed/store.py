"""Random access to the prepared examples of one task."""

from __future__ import annotations

import resource
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from array_record.python.array_record_module import ArrayRecordReader

from ul2tune.data import codec, files, manifest

_AGAIN = "Delete it and run `ul2tune prepare` again; only what is missing is made."


class Readers:
    """Open shards. Those not used for longest are closed where there are too many.

    A mixture of a thousand tasks has more files than a process may have open.

    Args:
      limit: shards open at once; None: a quarter of what the process may open (`ulimit -n`).
    """

    def __init__(self, limit: int | None = None):
        self._limit = limit or max(1, resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 4)
        self._open: OrderedDict[Path, ArrayRecordReader] = OrderedDict()

    def get(self, path: Path) -> ArrayRecordReader:
        """The reader of a shard, opened if need be (0.1 ms)."""
        if path in self._open:
            self._open.move_to_end(path)
            return self._open[path]
        while len(self._open) >= self._limit:
            self._open.popitem(last=False)
        # Records are read here and there: reading ahead would fetch what nobody wants.
        self._open[path] = ArrayRecordReader(str(path), "readahead_buffer_size:0")
        return self._open[path]

    def close(self) -> None:
        """Closes all files, by letting go of them: `close()` of a damaged one raises."""
        self._open.clear()


class Store:
    """The shards of one prepared task as one sequence of examples.

    Args:
      data_dir: where `prepare` wrote.
      task_manifest: which shards there are.
      readers: opens the shards; shared by the stores of a mixture.
      verify_checksums: read every shard and compare its SHA-256.

    Raises:
      ValueError: if a shard is missing, has another size or (if asked) another checksum.
    """

    def __init__(
        self,
        data_dir: str | Path,
        task_manifest: manifest.TaskManifest,
        readers: Readers,
        *,
        verify_checksums: bool = False,
    ):
        self._manifest, self._readers = task_manifest, readers
        self._folder = manifest.task_dir(data_dir, task_manifest.task, task_manifest.split)
        counts = [shard.num_examples for shard in task_manifest.shards]
        self._starts = np.concatenate([[0], np.cumsum(np.array(counts, np.int64))])
        for shard in task_manifest.shards:
            self._check(shard, verify_checksums)

    def __len__(self) -> int:
        return int(self._starts[-1])

    def read(self, indices: Sequence[int] | np.ndarray) -> list[codec.Example]:
        """Examples by index, in the order asked for.

        Raises:
          ValueError: if a shard is damaged or cannot be opened; names the file.
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

    def _records(self, shard: int, positions: np.ndarray) -> list[codec.Example]:
        path = self._folder / self._manifest.shards[shard].file
        try:
            reader, want = self._readers.get(path), self._manifest.shards[shard].num_examples
            if (found := reader.num_records()) != want:
                raise ValueError(f"it holds {found} examples, the manifest says {want}")
            return [codec.decode(record) for record in reader.read(positions.tolist())]
        except (ValueError, RuntimeError, IndexError, OSError) as error:
            _check_opens(path)  # no reason to delete a file that could not even be opened
            raise ValueError(f"{path} is damaged ({error}). {_AGAIN}") from error

    def _check(self, shard: manifest.Shard, verify_checksums: bool) -> None:
        path = self._folder / shard.file
        if not path.is_file():
            raise ValueError(f"{path} is missing, but the manifest names it. {_AGAIN}")
        if (size := path.stat().st_size) != shard.num_bytes:
            raise ValueError(
                f"{path} has {size} bytes, the manifest says {shard.num_bytes}. {_AGAIN}"
            )
        if verify_checksums and (found := files.read_sha256(str(path)).hex()) != shard.sha256:
            raise ValueError(
                f"{path} has SHA-256 {found[:12]}…, the manifest says {shard.sha256[:12]}…. "
                f"{_AGAIN}"
            )


def _check_opens(path: Path) -> None:
    try:
        path.open("rb").close()
    except OSError as error:
        raise ValueError(f"{path} cannot be opened: {error.strerror}.") from error
