"""Warnings of the library read like the other notes of a command."""

from __future__ import annotations

import io
import logging
import subprocess
import sys

from ul2tune.cli import warned
from ul2tune.status_line import StatusLine

# Libraries that log bring a form of their own to all loggers.
COMMAND = """
import logging
from ul2tune.cli import main

def command():
    logging.basicConfig()
    logging.getLogger("ul2tune.training.run").warning("Nothing to train: step %d of %d.", 3, 3)
    logging.getLogger("ul2tune.training.run").info("Loaded.")
    logging.getLogger("orbax").warning("Theirs.")
    logging.getLogger().setLevel(logging.INFO)  # as a module of the user's may
    logging.getLogger("ul2tune.training.run").info("Loaded.")
    return 0

main.main = command
main.script()
"""


def test_a_warning_is_a_sentence():
    found = subprocess.run(
        [sys.executable, "-c", COMMAND], capture_output=True, text=True, check=True
    )
    assert found.stderr.splitlines() == [
        "warning: Nothing to train: step 3 of 3.",
        "WARNING:orbax:Theirs.",
        "info: Loaded.",
    ]


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_warning_stands_below_the_status_line(monkeypatch):
    stream, log = Terminal(), logging.getLogger("ul2tune")
    monkeypatch.setattr(sys, "stderr", stream)
    monkeypatch.setattr(log, "handlers", [])
    monkeypatch.setattr(log, "propagate", True)
    warned.on_stderr()
    StatusLine().put("step 3/5")
    logging.getLogger("ul2tune.training.loop").warning("The data ended after step %d of %d.", 3, 5)
    assert stream.getvalue() == "\rstep 3/5\nwarning: The data ended after step 3 of 5.\n"
