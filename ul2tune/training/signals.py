"""When to stop early: SIGTERM, agreed on by all processes; SIGINT, which no callback swallows."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Any

import jax
from jax.experimental import multihost_utils


class StopSignal:
    """A context in which SIGTERM asks the loop to save and leave, instead of killing the process.

    With several processes JAX's preemption service catches the signal on whichever host gets it and
    picks a step that none has passed; in a single process it does nothing, so there is a handler of
    our own.

    SIGINT raises KeyboardInterrupt at once, as ever. Where that is ignored (Python does so inside
    of callbacks of the garbage collector, and JAX has one), it is raised again before the next
    step.
    """

    def __init__(self) -> None:
        self._received = threading.Event()
        self._interrupted = threading.Event()
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> StopSignal:
        # Python runs signal handlers in the main thread only.
        if threading.current_thread() is not threading.main_thread():
            return self
        if jax.process_count() == 1:
            self._handle(signal.SIGTERM, lambda *_: self._received.set())
        # Not where it is ignored (nohup) or somebody else's.
        if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
            self._handle(signal.SIGINT, self._interrupt)
        return self

    def _handle(self, number: int, handler: Callable[..., None]) -> None:
        self._previous[number] = signal.signal(number, handler)

    def _interrupt(self, *_: Any) -> None:
        self._interrupted.set()
        raise KeyboardInterrupt

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for number, handler in self._previous.items():
            if handler is not None:  # one that is not Python's cannot be put back
                signal.signal(number, handler)

    def requested(self, step: int) -> bool:
        """Whether to stop before running another step. Every process must ask at every step.

        Raises:
          KeyboardInterrupt: if that was ignored where it was raised first.
        """
        if self._interrupted.is_set():
            raise KeyboardInterrupt
        if jax.process_count() > 1:
            return multihost_utils.reached_preemption_sync_point(step)
        return self._received.is_set()
