"""Signal handlers that are put back, and signals that raise what no callback swallows.

SIGINT raises KeyboardInterrupt at once, as usual, and SIGTERM may raise too. But Python drops
exceptions inside callbacks of its garbage collector, and JAX has such a callback; so whatever runs
for long asks again:

    with interrupts():
        for batch in batches:
            raise_ignored_interrupt()
            …
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any


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
def raising(number: int, error: Callable[[], BaseException]) -> Iterator[None]:
    """A block in which a signal raises, and :func:`raise_ignored_interrupt` knows of it.

    Inside of another such block for the same signal, that one stays in charge.
    """
    if not _in_main_thread() or isinstance(signal.getsignal(number), _Raiser):
        yield
        return
    raiser = _Raiser(error)
    _raisers.append(raiser)
    _silence_ignored()
    try:
        with handled(number, raiser):
            yield
    finally:
        _raisers.remove(raiser)


@contextlib.contextmanager
def interrupts() -> Iterator[None]:
    """:func:`raising` of SIGINT, which raises KeyboardInterrupt.

    It leaves alone who ignores SIGINT (nohup) or handles it otherwise, another such block included.
    """
    if signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield
        return
    with raising(signal.SIGINT, KeyboardInterrupt):
        yield


@contextlib.contextmanager
def interrupts_wait() -> Iterator[None]:
    """A block that SIGINT does not cut short: it raises KeyboardInterrupt at the end.

    For imports. An extension that is interrupted while it is initialised fails with an error of its
    own, or crashes; and JAX's callback of the garbage collector is there, but nobody asks again.

    It leaves alone who ignores SIGINT or handles it otherwise.
    """
    if signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield
        return
    came: list[bool] = []
    with handled(signal.SIGINT, lambda *_: came.append(True)):
        yield
    if came:
        raise KeyboardInterrupt


@contextlib.contextmanager
def children_hold_back(number: int) -> Iterator[None]:
    """A block in which this thread starts processes that hold a signal back until they unblock it.
    This process hears it all the same, by its other threads or at the end of the block."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {number})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def import_and_call(module: str, function: str, *arguments: Any) -> None:
    """Calls a function of a module that takes seconds to import, in a process that was spawned in a
    block of :func:`children_hold_back` for SIGINT. Until the call SIGINT kills the process, where
    Python would print the traceback of an import."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # else it is ignored (nohup)
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    getattr(importlib.import_module(module), function)(*arguments)


def raise_ignored_interrupt() -> None:
    """Asks whether to go on.

    Raises:
      BaseException: that of a block of :func:`raising` whose signal came, if it was ignored where
        it was raised first: KeyboardInterrupt, of SIGINT.
    """
    for raiser in _raisers:
        if raiser.raised:
            raise raiser.error()


class _Raiser:
    """A handler that raises, and remembers what."""

    def __init__(self, error: Callable[[], BaseException]):
        self.error = error
        self.raised: list[BaseException] = []

    def __call__(self, *_: Any) -> None:
        self.raised.append(self.error())
        raise self.raised[-1]


@functools.cache
def _silence_ignored() -> None:
    """From now on, Python prints no traceback of what a :class:`_Raiser` raised and a callback
    swallowed: :func:`raise_ignored_interrupt` raises it again."""
    before = sys.unraisablehook

    def hook(unraisable: sys.UnraisableHookArgs) -> None:
        raised = (error for raiser in _raisers for error in raiser.raised)
        if not any(error is unraisable.exc_value for error in raised):
            before(unraisable)

    sys.unraisablehook = hook


# Those of the blocks that are open, the outermost first.
_raisers: list[_Raiser] = []


def _in_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()
