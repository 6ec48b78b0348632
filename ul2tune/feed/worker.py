"""Entry point of a feed's worker process: ``python -m ul2tune.feed.worker FILE_DESCRIPTOR``."""

from __future__ import annotations

import signal
import sys
from multiprocessing.connection import Connection

from ul2tune.feed.producers import serve

if __name__ == "__main__":
    # Ctrl-C goes to the whole terminal group; the parent decides when its workers stop.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    serve(Connection(int(sys.argv[1])))
