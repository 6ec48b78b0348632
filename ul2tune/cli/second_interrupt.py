"""A second Ctrl-C ends the process where it stands.

Python handles signals between its own instructions only. While XLA compiles, perhaps for minutes,
a Ctrl-C is not handled, and when it is, the process may still wait for the compilation before it
ends. So when the first SIGINT comes, a thread resets SIGINT to the system's default action, which
kills the process and needs nothing of Python. The first SIGINT itself is handled as usual.

A kill at any moment is safe: files are written by `ul2tune.atomic` or Orbax, and children end with
their parent.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import threading
import time

# The status that a shell gives a process killed by SIGINT; a command that ends in order has it too.
STATUS = 128 + signal.SIGINT
# A command that takes longer than this to end says that it will.
_PATIENCE_SECS = 0.5
_TOLD = b"\nul2tune: ends as soon as what is under way lets it; Ctrl-C again ends it at once.\n"


def ends() -> None:
    """From now on a second SIGINT ends this process. To be called in the main thread, at its start.

    Does nothing where SIGINT is ignored (nohup) or has another handler than Python's own.
    """
    if signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        return
    heard, wakeup = os.pipe()
    told = 2
    with contextlib.suppress(OSError):  # stderr may be closed
        told = os.dup(2)  # number 2 is nowhere while TensorFlow is imported in silence
    os.set_blocking(wakeup, False)
    threading.Thread(target=_watch, args=(heard, told), daemon=True).start()
    # Python's handler in C writes there at once, whatever Python is doing.
    signal.set_wakeup_fd(wakeup, warn_on_full_buffer=False)
    # A forked child shares the pipe and gets the terminal's Ctrl-C too: written there, it would be
    # taken for the parent's second one.
    os.register_at_fork(after_in_child=lambda: signal.set_wakeup_fd(-1))


def next_ends() -> None:
    """From now on the first SIGINT ends this process: the command is over."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)


def _watch(heard: int, told: int) -> None:
    """Waits for two SIGINTs, whose numbers can be read from `heard`; after the first it writes to
    `told` what another one does."""
    before_python = ctypes.CDLL(None).signal  # `signal.signal` is for the main thread alone
    before_python.argtypes, before_python.restype = [ctypes.c_int, ctypes.c_void_p], ctypes.c_void_p
    _await(heard)
    before_python(signal.SIGINT, None)  # SIG_DFL
    time.sleep(_PATIENCE_SECS)
    with contextlib.suppress(OSError):
        os.write(told, _TOLD)  # `print` may have to wait
    # The second one kills the process by itself, unless Python code has set a handler again
    # meanwhile: then its number arrives here.
    _await(heard)
    os._exit(STATUS)


def _await(heard: int) -> None:
    while os.read(heard, 1) != bytes([signal.SIGINT]):
        pass
