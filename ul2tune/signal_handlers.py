"""Signal handlers that are put back, and SIGINT that no callback swallows.

SIGINT raises KeyboardInterrupt at once, as usual. But Python drops exceptions inside callbacks of
its garbage collector, and JAX has such a callback; so whatever runs for long asks again:

    with interrupts():
        for batch in batches:
            raise_ignored_interrupt()
            …
"""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from typing import Any

_interrupted = threading.Event()


@contextlib.contextmanager
def handled(number: int, handler: Callable[..., Any]) -> Iterator[None]:
    """A block in which `handler` handles a signal.

    Not outside of the main thread, in which alone Python runs handlers; and not where there is a
    handler that Python did not set and could not put back, of a program that embeds it.
    """
    if not _in_main_thread() or signal.getsignal(number) is None:
        yield
        return
    before = signal.signal(number, handler)
    try:
        yield
    finally:
        signal.signal(number, before)


@contextlib.contextmanager
def interrupts() -> Iterator[None]:
    """A block in which :func:`raise_ignored_interrupt` knows of every SIGINT.

    It leaves alone who ignores SIGINT (nohup) or handles it otherwise, another such block included.
    """
    is_default = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if not _in_main_thread() or not is_default:
        yield
        return
    try:
        with handled(signal.SIGINT, _interrupt):
            yield
    finally:
        _interrupted.clear()


def raise_ignored_interrupt() -> None:
    """Asks whether to go on.

    Raises:
      KeyboardInterrupt: if SIGINT came, and that was ignored where it was raised first.
    """
    if _interrupted.is_set():
        raise KeyboardInterrupt


def _in_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()


def _interrupt(*_: Any) -> None:
    _interrupted.set()
    raise KeyboardInterrupt
