"""One line: live on a terminal, a line now and then in a log."""

from __future__ import annotations

import argparse
import io
import sys

from ul2tune.cli import init, main
from ul2tune.status_line import StatusLine


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_terminal_has_one_line():
    stream = Terminal()
    line = StatusLine(stream)
    line.put("a long text")
    line.put("a text")
    line.end()
    line.end()  # nothing stands there any more
    assert stream.getvalue() == "\ra long text\ra text     \n"
    line.put("x")
    assert stream.getvalue().endswith("\n\rx")


def test_an_error_stands_below_the_line(monkeypatch):
    stream = Terminal()
    monkeypatch.setattr(sys, "stderr", stream)

    def fail(_: argparse.Namespace) -> None:
        StatusLine().put("halfway")
        raise ValueError("No.")

    monkeypatch.setattr(init, "run", fail)
    assert main.main(["init", "x"]) == 1
    assert stream.getvalue() == "\rhalfway\nul2tune init: No.\n"
    assert main.main(["init", "x", "--debug"]) == 1
    assert "halfway\nTraceback" in stream.getvalue()


def test_every_text_is_a_line_of_a_log():
    stream = io.StringIO()
    line = StatusLine(stream)
    line.put("a long text")
    line.put("a text")
    line.end()
    assert stream.getvalue() == "a long text\na text\n"


def test_when_a_text_is_due():
    now = [0.0]
    for stream, period in ((Terminal(), 0.5), (io.StringIO(), 4.0)):
        periods = {"live_secs": 0.5, "quiet_secs": 4.0}
        line = StatusLine(stream, clock=lambda: now[0], **periods)
        assert not line.is_due()
        now[0] += period
        assert line.is_due()
        line.put("x")
        assert not line.is_due()
        assert StatusLine(stream, clock=lambda: now[0], at_once=True, **periods).is_due()
