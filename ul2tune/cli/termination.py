"""SIGTERM as an orderly exit: what is open is closed, what was begun is undone, children end."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from ul2tune.cli import distributed
from ul2tune.signal_handlers import handled


@contextmanager
def by_exception() -> Iterator[None]:
    """In this block SIGTERM ends the process as `sys.exit` does. The training loop's own handler
    saves instead, and of several processes JAX's, which must stay."""
    if distributed.is_joined():
        yield
        return
    with handled(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM)):
        yield
