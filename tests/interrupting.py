"""Signals where Python ignores exceptions."""

from __future__ import annotations

import gc
import os
import signal


def collect(number: int = signal.SIGINT) -> None:
    """Collects garbage; a signal comes inside of a callback of that."""
    callback = lambda *_: os.kill(os.getpid(), number)  # noqa: E731
    gc.callbacks.append(callback)
    try:
        gc.collect()
    finally:
        gc.callbacks.remove(callback)
