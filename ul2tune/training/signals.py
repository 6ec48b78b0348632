"""When to stop early: SIGTERM, agreed on by all processes; SIGINT, which no callback swallows."""

from __future__ import annotations

import contextlib
import signal
import threading
from types import TracebackType

import jax
from jax.experimental import multihost_utils

from ul2tune import signal_handlers


class StopSignal:
    """A context in which SIGTERM asks the loop to save and leave, instead of killing the process.

    With several processes JAX's preemption service catches the signal on whichever host gets it and
    picks a step that none has passed; in a single process it does nothing, so there is a handler of
    our own.

    SIGINT raises KeyboardInterrupt at once, as usual, and again before the next step where Python
    ignored it (see `ul2tune.signal_handlers`).
    """

    def __init__(self) -> None:
        self._received = threading.Event()
        self._handlers = contextlib.ExitStack()

    def __enter__(self) -> StopSignal:
        if jax.process_count() == 1:
            hear = lambda *_: self._received.set()  # noqa: E731
            self._handlers.enter_context(signal_handlers.handled(signal.SIGTERM, hear))
        self._handlers.enter_context(signal_handlers.interrupts())
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._handlers.close()

    def requested(self, step: int) -> bool:
        """Whether to stop before running another step. Every process must ask at every step.

        Raises:
          KeyboardInterrupt: if that was ignored where it was raised first.
        """
        signal_handlers.raise_ignored_interrupt()
        if jax.process_count() > 1:
            return multihost_utils.reached_preemption_sync_point(step)
        return self._received.is_set()
