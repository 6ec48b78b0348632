"""A child process that does not outlive the one it works for, however that ends.

A killed process cannot end its child. So the child checks now and then whether it still has the
same parent:

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
    """Environment variables for a child that is to end with this process."""
    return {_VARIABLE: str(os.getpid())}


def end_with() -> None:
    """Ends this process soon after its parent has ended, if that started it with :func:`named`."""
    pid = os.environ.pop(_VARIABLE, None)  # our own children have another parent
    if pid is not None:
        threading.Thread(target=_watch, args=(int(pid),), daemon=True).start()


def _watch(pid: int) -> None:
    while os.getppid() == pid:  # it may have ended before this thread began
        time.sleep(_POLL_SECS)
    os._exit(1)
