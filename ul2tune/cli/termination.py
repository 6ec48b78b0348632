"""SIGTERM as an orderly exit: what is open is closed, what was begun is undone, children end."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from ul2tune.cli import distributed
from ul2tune.signal_handlers import interrupts, raising


@contextmanager
def by_exception() -> Iterator[None]:
    """In this block SIGTERM ends the process as `sys.exit` does.

    With several processes SIGTERM is left to JAX's preemption service, and inside the training loop
    that has a handler of its own, which saves. What runs for long in the block should call
    `raise_ignored_interrupt` now and then, for SIGTERM and SIGINT alike.
    """
    with ExitStack() as stack:
        stack.enter_context(interrupts())
        if not distributed.is_joined():
            leave = lambda: SystemExit(128 + signal.SIGTERM)  # noqa: E731
            stack.enter_context(raising(signal.SIGTERM, leave))
        yield
