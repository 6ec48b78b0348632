"""Handlers are put back; an interrupt that was ignored is raised again where one asks."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading

import pytest

from tests import interrupting
from ul2tune import signal_handlers
from ul2tune.cli import termination
from ul2tune.signal_handlers import (
    children_hold_back,
    handled,
    interrupts,
    interrupts_wait,
    raise_ignored_interrupt,
)
from ul2tune.training.signals import StopSignal

ignored = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


def test_a_handler_is_put_back_also_after_an_error():
    before, came = signal.getsignal(signal.SIGTERM), []

    def fail():
        with handled(signal.SIGTERM, lambda number, _: came.append(number)):
            os.kill(os.getpid(), signal.SIGTERM)
            raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        fail()
    assert came == [signal.SIGTERM]
    assert signal.getsignal(signal.SIGTERM) is before


@pytest.mark.parametrize("block", [StopSignal, termination.by_exception])
def test_a_handler_that_python_did_not_set_stays(monkeypatch, block):
    """A program that embeds Python has one; it could not be put back."""
    before = signal.getsignal(signal.SIGTERM)
    with monkeypatch.context() as patch:
        patch.setattr(signal_handlers.signal, "getsignal", lambda _: None)
        patch.setattr(signal_handlers.signal, "signal", None)
        with block():
            pass
    assert signal.getsignal(signal.SIGTERM) is before


def test_other_threads_handle_nothing():
    found = []

    def run():
        with handled(signal.SIGTERM, lambda *_: None), interrupts():
            found.append(signal.getsignal(signal.SIGTERM))

    before = signal.getsignal(signal.SIGTERM)
    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert found == [before]


@ignored
def test_an_ignored_interrupt_is_raised_where_one_asks():
    with interrupts():
        raise_ignored_interrupt()
        with interrupts():  # an evaluation inside of a run
            interrupting.collect()
        with pytest.raises(KeyboardInterrupt):
            raise_ignored_interrupt()
    raise_ignored_interrupt()  # of a block that is over
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_only_an_ignored_interrupt_leaves_no_traceback(monkeypatch):
    printed = []
    monkeypatch.setattr(sys, "unraisablehook", lambda unraisable: printed.append(unraisable))
    signal_handlers._silence_ignored.cache_clear()
    with interrupts():
        interrupting.collect()
        assert not printed
        with signal_handlers.handled(signal.SIGINT, signal.default_int_handler):
            interrupting.collect()
    assert {unraisable.exc_type for unraisable in printed} == {KeyboardInterrupt}
    signal_handlers._silence_ignored.cache_clear()  # its hook goes with this test


def test_an_interrupt_may_have_to_wait():
    reached = []
    with pytest.raises(KeyboardInterrupt), interrupts_wait():  # noqa: PT012
        os.kill(os.getpid(), signal.SIGINT)
        reached.append(True)
    assert reached
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    with interrupts_wait():
        pass


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_children_that_are_started_in_a_block_hold_a_signal_back():
    def blocked() -> int:
        status = subprocess.run(["cat", "/proc/self/status"], capture_output=True, text=True)
        (mask,) = re.findall(r"SigBlk:\s*(\w+)", status.stdout)
        return int(mask, 16)

    before, mask = signal.pthread_sigmask(signal.SIG_BLOCK, ()), blocked()
    with children_hold_back(signal.SIGINT):
        assert blocked() == mask | 1 << signal.SIGINT - 1
    assert blocked() == mask
    assert signal.pthread_sigmask(signal.SIG_BLOCK, ()) == before


def test_who_ignores_interrupts_goes_on():
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with interrupts_wait():
            os.kill(os.getpid(), signal.SIGINT)
        with interrupts():
            os.kill(os.getpid(), signal.SIGINT)
            raise_ignored_interrupt()
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)
