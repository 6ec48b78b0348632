"""A second Ctrl-C ends the process where it stands.

Python hears signals between its own instructions. XLA is outside of Python while it compiles, for
minutes perhaps; what interrupts it waits for it all the same, with Python's lock in hand or at the
end of the process. So the first SIGINT, while Python goes about it in order, gives the signal back
its default: to kill, for which nothing of Python is needed.

Whatever is to be whole is written by `ul2tune.atomic` or Orbax, and children end with their parent.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import threading
import time

# What shells say of who was killed by it, and what a command returns that ended in order.
STATUS = 128 + signal.SIGINT
# A command that ends in this time need not say that it is going to.
_PATIENCE_SECS = 0.5
_TOLD = b"\nul2tune: ends as soon as what is under way lets it; Ctrl-C again ends it at once.\n"


def ends() -> None:
    """From now on a second SIGINT ends this process. For the main thread, at its start.

    It leaves alone who ignores SIGINT (nohup) or handles it otherwise.
    """
    if signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        return
    heard, wakeup = os.pipe()
    os.set_blocking(wakeup, False)
    threading.Thread(target=_watch, args=(heard,), daemon=True).start()
    # Python's handler in C writes there at once, whatever Python is doing.
    signal.set_wakeup_fd(wakeup, warn_on_full_buffer=False)
    # A forked child hears the terminal's Ctrl-C too, which is no second one of its parent's.
    os.register_at_fork(after_in_child=lambda: signal.set_wakeup_fd(-1))


def next_ends() -> None:
    """From now on the first SIGINT ends this process: the command is over."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)


def _watch(heard: int) -> None:
    """Reads the numbers of the signals that come."""
    before_python = ctypes.CDLL(None).signal  # `signal.signal` is for the main thread alone
    before_python.argtypes, before_python.restype = [ctypes.c_int, ctypes.c_void_p], ctypes.c_void_p
    _await(heard)
    before_python(signal.SIGINT, None)  # SIG_DFL
    time.sleep(_PATIENCE_SECS)
    with contextlib.suppress(OSError):
        os.write(2, _TOLD)  # `print` may have to wait
    # A handler that was put back meanwhile has written this one.
    _await(heard)
    os._exit(STATUS)


def _await(heard: int) -> None:
    while os.read(heard, 1) != bytes([signal.SIGINT]):
        pass
