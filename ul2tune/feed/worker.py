"""Entry point of a feed's worker process: ``python -m ul2tune.feed.worker FILE_DESCRIPTOR``."""

from __future__ import annotations

import signal
import sys
from multiprocessing.connection import Connection

if __name__ == "__main__":
    # Ctrl-C goes to the whole terminal group, and schedulers send SIGTERM to every process of a
    # job; the parent decides when its workers stop: it needs them until it has saved. Before the
    # import, which takes its time.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)

from ul2tune.feed.producers import serve

if __name__ == "__main__":
    serve(Connection(int(sys.argv[1])))
