"""Drops what this process prints, native code included."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator


@contextlib.contextmanager
def silent(*descriptors: int) -> Iterator[None]:
    """Sends standard streams to nowhere for a while. Python's exceptions are not affected.

    Below Python, because native code does not ask `sys.stderr`, and because handlers of logs that
    are made meanwhile keep the streams they find.

    Args:
      descriptors: 1 for standard output, 2 for standard error. One that was closed when Python
        started is left alone: its number may be that of another file by now.
    """
    streams = {1: sys.stdout, 2: sys.stderr}
    kept = {number: os.dup(number) for number in descriptors if streams[number] is not None}
    try:
        with open(os.devnull, "wb") as nowhere:
            for number in kept:
                streams[number].flush()  # what was printed before
                os.dup2(nowhere.fileno(), number)
        yield
    finally:
        for number, copy in kept.items():
            streams[number].flush()
            os.dup2(copy, number)
            os.close(copy)
