"""When to stop early: SIGTERM, agreed on by all processes."""

from __future__ import annotations

import signal
import threading
from types import TracebackType

import jax
from jax.experimental import multihost_utils


class StopSignal:
    """A context in which SIGTERM asks the loop to save and leave, instead of killing the process.

    With several processes JAX's preemption service catches the signal on whichever host gets it and
    picks a step that none has passed; in a single process it does nothing, so there is a handler of
    our own.
    """

    def __init__(self) -> None:
        self._received = threading.Event()
        self._previous = None

    def __enter__(self) -> StopSignal:
        # Python runs signal handlers in the main thread only.
        main = threading.current_thread() is threading.main_thread()
        if jax.process_count() == 1 and main:
            self._previous = signal.signal(signal.SIGTERM, lambda *_: self._received.set())
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._previous is not None:
            signal.signal(signal.SIGTERM, self._previous)

    def requested(self, step: int) -> bool:
        """Whether to stop before running another step. Every process must ask at every step."""
        if jax.process_count() > 1:
            return multihost_utils.reached_preemption_sync_point(step)
        return self._received.is_set()
