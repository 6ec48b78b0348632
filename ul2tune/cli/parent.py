"""A child process that does not outlive the one it works for, however that ends.

A killed process cannot end its child. So the child looks now and then whose it is:

    subprocess.Popen(command, env={**os.environ, **parent.named()})     # in the parent
    parent.end_with()                                                   # in the child
"""

from __future__ import annotations

import os
import threading
import time

_VARIABLE = "UL2TUNE_PARENT"
_POLL_SECS = 1.0


def named() -> dict[str, str]:
    """Environment of a child that ends with this process: which one that is."""
    return {_VARIABLE: str(os.getpid())}


def end_with() -> None:
    """Ends this process soon after the one that :func:`named` itself; who was not named is not
    waited for."""
    pid = os.environ.pop(_VARIABLE, None)  # not for our own children
    if pid is not None:
        threading.Thread(target=_watch, args=(int(pid),), daemon=True).start()


def _watch(pid: int) -> None:
    while os.getppid() == pid:  # it may have gone before we began
        time.sleep(_POLL_SECS)
    os._exit(1)
