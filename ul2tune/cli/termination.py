"""SIGTERM as an orderly exit: what is open is closed, what was begun is undone, children end."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from ul2tune.cli import distributed
from ul2tune.signal_handlers import interrupts, raising


@contextmanager
def by_exception() -> Iterator[None]:
    """In this block SIGTERM ends the process as `sys.exit` does. The training loop's own handler
    saves instead, and of several processes JAX's, which must stay.

    What goes on for long asks `raise_ignored_interrupt`, for SIGTERM and SIGINT alike.
    """
    with ExitStack() as stack:
        stack.enter_context(interrupts())
        if not distributed.is_joined():
            leave = lambda: SystemExit(128 + signal.SIGTERM)  # noqa: E731
            stack.enter_context(raising(signal.SIGTERM, leave))
        yield
