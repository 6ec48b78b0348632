"""The files a run writes besides its checkpoints.

MODEL_DIR/metrics.jsonl   what was computed: after any restarts the same, as far as the device's own
                          sums are (on CPU to the last bit)
MODEL_DIR/timing.jsonl    how fast it was: wall-clock values, different in every run
MODEL_DIR/tensorboard     both, for looking at
"""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Iterator, Mapping
from io import FileIO
from pathlib import Path

from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event, SessionLog  # type: ignore
from tensorboardX.summary import scalar

from ul2tune import atomic, strict_json
from ul2tune.checkpoints import layout

METRICS, TIMING, TENSORBOARD = "metrics.jsonl", "timing.jsonl", "tensorboard"
# How long events may wait in memory.
FLUSH_SECS = 30.0


class MetricsWriteError(OSError):
    """A file of metrics could not be written (full disk, lost permission)."""


class MetricsWriter:
    """Appends lines ``{"step": n, name: value, …}``; only process 0 has one."""

    def __init__(self, model_dir: str | Path, *, step: int, tensorboard: bool):
        """Opens the files and drops what was written after `step`, which is going to be computed
        again.

        Raises:
          MetricsWriteError: if a file cannot be written; so does every other method.
        """
        self._dir = Path(model_dir)
        self._files: dict[str, FileIO] = {}
        for name in (METRICS, TIMING):
            with self._errors(name):
                self._dir.mkdir(parents=True, exist_ok=True)
                truncate(self._dir / name, step)
                # Unbuffered: closing the file then writes nothing, and so cannot fail.
                self._files[name] = open(self._dir / name, "ab", buffering=0)  # noqa: SIM115
        self._board = None
        if tensorboard:
            with self._errors(TENSORBOARD):
                self._board = _Board(self._dir / TENSORBOARD, step)

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        """Values that depend on the computation alone. A hook's may be NaN: null in the file."""
        self._write(METRICS, step, values)

    def timing(self, step: int, values: Mapping[str, float]) -> None:
        """Values that depend on the clock."""
        self._write(TIMING, step, {"unix_secs": time.time(), **values})

    def _write(self, name: str, step: int, values: Mapping[str, float]) -> None:
        line = {"step": step, **{key: float(value) for key, value in sorted(values.items())}}
        rest = (json.dumps(strict_json.finite(line)) + "\n").encode()
        with self._errors(name):
            while rest:
                rest = rest[self._files[name].write(rest) :]
        if self._board is not None:
            with self._errors(TENSORBOARD):
                self._board.write(step, values)

    @contextlib.contextmanager
    def _errors(self, name: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            left = layout.after_a_failed_write(self._dir / layout.SUBDIRECTORY)
            raise MetricsWriteError(
                f"Could not write {self._dir / name}: {error.strerror}. {left}"
            ) from error

    def close(self) -> None:
        for file in self._files.values():
            file.close()
        if self._board is not None:
            with self._errors(TENSORBOARD):
                self._board.close()


class _Board:
    """Event files. tensorboardX's `SummaryWriter` hands events to a thread, which a full disk ends:
    after ten more events the run would wait for it for ever."""

    def __init__(self, folder: Path, step: int):
        folder.mkdir(parents=True, exist_ok=True)
        self._events = EventsWriter(str(folder / "events"))
        self._flushed = time.monotonic()
        # Events of steps after `step` stay in their files; this hides them.
        started = SessionLog(status=SessionLog.START)
        self._events.write_event(Event(step=step + 1, session_log=started))

    def write(self, step: int, values: Mapping[str, float]) -> None:
        for key, value in values.items():
            summary = scalar(key, value)
            self._events.write_event(Event(wall_time=time.time(), step=step, summary=summary))
        if time.monotonic() - self._flushed > FLUSH_SECS:
            self._events.flush()
            self._flushed = time.monotonic()

    def close(self) -> None:
        self._events.close()


def truncate(path: Path, step: int) -> None:
    """Keeps the lines up to `step`, atomically; a line cut off by a kill ends the file."""
    if not path.exists():
        return
    kept = []
    # After a power cut the end of the file may hold any bytes.
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines(keepends=True):
        try:
            complete = line.endswith("\n") and json.loads(line)["step"] <= step
        except (ValueError, KeyError, TypeError):
            complete = False
        if not complete:
            break
        kept.append(line)
    atomic.write_text(path, "".join(kept))
