"""Who makes the batches: this thread, a thread beside it, or processes, each with a slice of rows.

Every producer yields the same `Item`s in the same order. An item carries the state after it, so a
feed knows where it stands although producers run ahead.
"""

from __future__ import annotations

import os
import pickle
import queue
import subprocess
import sys
import threading
import time
import traceback
import weakref
from collections.abc import Mapping
from dataclasses import dataclass
from multiprocessing.connection import Connection, Pipe
from typing import Protocol

import numpy as np

from ul2tune.feed.config import FeedConfig
from ul2tune.feed.sources import Sources
from ul2tune.feed.stats import Counts
from ul2tune.feed.streams import RowStreams

State = Mapping[str, np.ndarray]
_STOP_SECONDS = 5.0


@dataclass(frozen=True, kw_only=True)
class Item:
    """A batch of some rows, the state after it, and what it holds."""

    batch: dict[str, np.ndarray]
    state: dict[str, np.ndarray]
    counts: Counts


class Producer(Protocol):
    """A source of items that never ends (finite passes end in padding)."""

    def get(self) -> Item:
        """The next item; raises what went wrong while making it."""
        ...

    def close(self) -> None:
        """Stops at once; may be called twice."""
        ...


class DirectProducer:
    """Makes each item when it is asked for.

    Args:
      sources: the mixture; the caller closes it.
      rows: ids of the rows.
      state: where to go on, or None.
    """

    def __init__(self, sources: Sources, rows: np.ndarray, state: State | None):
        self._streams = RowStreams(sources, rows, state)

    def get(self) -> Item:
        batch, counts = self._streams.next()
        return Item(batch=batch, state=self._streams.state(), counts=counts)

    def close(self) -> None:
        pass


class ThreadProducer:
    """Keeps up to `depth` items ready, made by a thread with a :class:`DirectProducer`.

    The thread is ended before its process is, closed or not: an interpreter that shuts down ends
    daemon threads inside of whatever C++ they wait in, and array_record's reader takes that for an
    exception nobody catches and aborts the process.
    """

    def __init__(self, sources: Sources, rows: np.ndarray, state: State | None, depth: int):
        self._ready: queue.Queue[Item | BaseException] = queue.Queue(maxsize=depth)
        self._failure: BaseException | None = None
        stop = threading.Event()
        # The thread holds nothing of this object, so that an object that is dropped ends it.
        thread = threading.Thread(
            target=_make_items,
            args=(self._ready, stop, sources, rows, state),
            name="feed",
            daemon=True,
        )
        thread.start()
        self.close = weakref.finalize(self, _end_thread, thread, self._ready, stop)

    def get(self) -> Item:
        if self._failure is None:
            item = self._ready.get()
            if isinstance(item, Item):
                return item
            self._failure = item
        raise self._failure


def _make_items(ready: queue.Queue, stop: threading.Event, sources, rows, state) -> None:
    try:
        producer = DirectProducer(sources, rows, state)
        while not stop.is_set():
            ready.put(producer.get())
    except BaseException as error:
        ready.put(error)


def _end_thread(thread: threading.Thread, ready: queue.Queue, stop: threading.Event) -> None:
    stop.set()
    while thread.is_alive():
        # The thread may be waiting for room in the queue.
        for _ in range(ready.qsize()):
            ready.get()
        thread.join(timeout=0.05)


class ProcessProducer:
    """Processes that hold a slice of the rows each; an item is their items, side by side.

    The children run this package's own entry point rather than `multiprocessing`'s, so that the
    user's main module is not imported again (no `if __name__ == "__main__"` is needed) and no JAX
    is loaded.
    """

    def __init__(self, config: FeedConfig, rows: np.ndarray, state: State | None):
        slices = np.array_split(np.arange(len(rows)), min(config.num_workers, len(rows)))
        self._children: list[_Child] = []
        try:
            for part in slices:
                part_state = None if state is None else {n: v[part] for n, v in state.items()}
                self._children.append(_Child(config, rows[part], part_state))
        except BaseException:
            self.close()
            raise

    def get(self) -> Item:
        items = [child.get() for child in self._children]
        counts = items[0].counts
        for item in items[1:]:
            counts = counts + item.counts
        return Item(
            batch=_stack([item.batch for item in items]),
            state=_stack([item.state for item in items]),
            counts=counts,
        )

    def close(self) -> None:
        for child in self._children:
            child.stop()
        deadline = time.monotonic() + _STOP_SECONDS
        for child in self._children:
            child.wait(deadline)


class _Child:
    """One worker process and the pipe to it."""

    def __init__(self, config: FeedConfig, rows: np.ndarray, state: State | None):
        self._rows = rows
        self._pipe, other = Pipe()
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
        self._process = subprocess.Popen(
            [sys.executable, "-m", "ul2tune.feed.worker", str(other.fileno())],
            pass_fds=[other.fileno()],
            stdin=subprocess.DEVNULL,
            env=environment,
        )
        other.close()
        self._pipe.send((config, rows, state))

    def get(self) -> Item:
        try:
            result = self._pipe.recv()
        except (EOFError, ConnectionError) as error:
            code = self._process.wait(timeout=_STOP_SECONDS)
            raise RuntimeError(
                f"The feed worker for rows {self._name()} died with exit code {code}; its own "
                "messages are above. If it was killed, it may have run out of memory: lower "
                "num_workers or prefetch_batches."
            ) from error
        if isinstance(result, Item):
            return result
        error, trace = result
        error.add_note(f"In the feed worker for rows {self._name()}:\n{trace}")
        raise error

    def _name(self) -> str:
        return f"{self._rows[0]}–{self._rows[-1]}"

    def stop(self) -> None:
        self._pipe.close()  # a worker ends when it cannot send

    def wait(self, deadline: float) -> None:
        try:
            self._process.wait(timeout=max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def serve(pipe: Connection) -> None:
    """The life of a worker process: items into the pipe until the other end is closed."""
    try:
        config, rows, state = pipe.recv()
        sources = Sources(config)
        producer = ThreadProducer(sources, rows, state, depth=max(1, config.prefetch_batches))
        while True:
            pipe.send(producer.get())
    except (BrokenPipeError, ConnectionResetError, EOFError):
        pass  # the feed was closed
    except Exception as error:
        pipe.send((_portable(error), traceback.format_exc()))


def _portable(error: Exception) -> Exception:
    """The error itself if it survives pickling, else its message."""
    try:
        return pickle.loads(pickle.dumps(error))
    except Exception:
        return RuntimeError(f"{type(error).__name__}: {error}")


def _stack(parts: list[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
