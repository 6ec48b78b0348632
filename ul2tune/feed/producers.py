"""Who makes the batches: this thread, a thread beside it, or processes, each with a slice of rows.

Every producer yields the same `Item`s in the same order. An item carries the state after it, so a
feed knows where it stands although producers run ahead.
"""

from __future__ import annotations

import atexit
import contextlib
import logging
import os
import queue
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Mapping
from dataclasses import dataclass
from multiprocessing.connection import Connection, Pipe
from typing import Protocol

import numpy as np

from ul2tune.feed.config import FeedConfig
from ul2tune.feed.sources import Sources
from ul2tune.feed.stats import Counts
from ul2tune.feed.streams import RowStreams
from ul2tune.portable_error import portable

State = Mapping[str, np.ndarray]
_STOP_SECONDS = 5.0
_LOOK_SECONDS = 0.1  # how often a thread that waits for room looks whether it is to end
log = logging.getLogger(__name__)


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

    def close(self) -> bool:
        """Stops at once; may be called twice. False: it still reads from its sources."""
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

    def close(self) -> bool:
        return True


class ThreadProducer:
    """Keeps up to `depth` items ready, made by a thread with a :class:`DirectProducer`.

    Dropping it asks the thread to end, but does not wait: the garbage collector may drop it inside
    that very thread, while the queue's lock is held.
    """

    def __init__(self, sources: Sources, rows: np.ndarray, state: State | None, depth: int):
        self._failure: BaseException | None = None
        # The thread holds nothing of this object, so that an object that is dropped ends it.
        self._thread = _FeedThread(sources, rows, state, depth)
        self._thread.start()

    def get(self) -> Item:
        if self._failure is None:
            item = self._thread.ready.get()
            if isinstance(item, Item):
                return item
            self._failure = item
        raise self._failure

    def close(self) -> bool:
        return self._thread.end(_STOP_SECONDS)

    def __del__(self):
        self._thread.stopping = True


class _FeedThread(threading.Thread):
    """Makes items until `stopping` is set: a plain attribute, as no lock may be taken to set it."""

    def __init__(self, sources: Sources, rows: np.ndarray, state: State | None, depth: int):
        super().__init__(name="feed", daemon=True)
        self.ready: queue.Queue[Item | BaseException] = queue.Queue(maxsize=depth)
        self.stopping = False
        self._arguments = sources, rows, state

    def run(self) -> None:
        try:
            producer = DirectProducer(*self._arguments)
            while not self.stopping:
                self._put(producer.get())
        except BaseException as error:
            self._put(error)

    def _put(self, item: Item | BaseException) -> None:
        """Waits for room in the queue, or until the thread is to end: perhaps nobody makes room."""
        while not self.stopping:
            with contextlib.suppress(queue.Full):
                return self.ready.put(item, timeout=_LOOK_SECONDS)

    def end(self, seconds: float) -> bool:
        """Ends the thread. False if it does not end in time, of which a warning is logged."""
        self.stopping = True
        if self is threading.current_thread():
            return False  # the collector closes, in here, a generator that holds the feed
        with contextlib.suppress(queue.Empty):
            while True:
                self.ready.get_nowait()  # makes room, if that is what the thread waits for
        self.join(max(0.0, seconds))
        if self.is_alive():
            log.warning(
                "The feed's thread has not ended within %g s of being asked to; it is left "
                "alone. What it reads may be stuck (a network file system?).",
                _STOP_SECONDS,
            )
        return not self.is_alive()


@atexit.register
def _end_threads() -> None:
    """Ends the feeds' threads before the process ends, whether the feeds were closed or not.

    An interpreter that shuts down ends daemon threads inside whatever C++ they wait in, and
    array_record's reader takes that for an exception nobody catches and aborts the process. That
    is still better than a process that never ends, so the wait has an end.
    """
    threads = [thread for thread in threading.enumerate() if isinstance(thread, _FeedThread)]
    for thread in threads:
        thread.stopping = True
    deadline = time.monotonic() + _STOP_SECONDS
    for thread in threads:
        thread.end(deadline - time.monotonic())


class ProcessProducer:
    """Processes that hold a slice of the rows each; an item is their items, side by side.

    The children run this package's own entry point rather than `multiprocessing`'s, so that the
    user's main module is not imported again (no `if __name__ == "__main__"` is needed) and no JAX
    is loaded.
    """

    def __init__(self, config: FeedConfig, rows: np.ndarray, state: State | None):
        self._children: list[_Child] = []
        slices = np.array_split(np.arange(len(rows)), min(config.num_workers, len(rows)))
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

    def close(self) -> bool:
        for child in self._children:
            child.stop()
        deadline = time.monotonic() + _STOP_SECONDS
        for child in self._children:
            child.wait(deadline)
        return True

    def __del__(self):
        self.close()  # a feed dropped without close() must not leave processes behind


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
        # A large state waits for the worker to read it, which may have died: `get` will say so.
        with contextlib.suppress(ConnectionError):
            self._pipe.send((config, rows, state))

    def get(self) -> Item:
        try:
            result = self._pipe.recv()
        except (EOFError, ConnectionError) as error:
            code = self._process.wait(timeout=_STOP_SECONDS)
            raise ChildProcessError(
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
        with contextlib.closing(producer):
            while True:
                pipe.send(producer.get())
    except (BrokenPipeError, ConnectionResetError, EOFError):
        pass  # the feed was closed
    except Exception as error:
        pipe.send((portable(error), traceback.format_exc()))


def _stack(parts: list[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
