"""One line: live on a terminal, a line now and then in a log."""

from __future__ import annotations

import argparse
import io
import itertools
import os
import re
import sys
import termios
import threading

import pytest

from ul2tune import status_line
from ul2tune.cli import init, main
from ul2tune.status_line import Progress, StatusLine, say


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


def test_a_line_does_not_go_on_with_what_another_left():
    stream = Terminal()
    training, evaluation = StatusLine(stream), StatusLine(stream)
    training.put("step 3/5  loss 1.0")
    evaluation.put("evaluate")
    evaluation.put("evaluates")
    evaluation.end()
    training.put("step 4/5")
    assert stream.getvalue() == "\rstep 3/5  loss 1.0\n\revaluate\revaluates\n\rstep 4/5"


@pytest.mark.parametrize("columns", [40, 20, 0])
def test_a_line_fits_into_its_terminal(columns):
    """One that goes on in the next row is not rewritten: every text would leave a row behind."""
    text = "a text of" + " words" * 5
    main, terminal = os.openpty()
    termios.tcsetwinsize(terminal, (24, columns))
    with open(terminal, "w", encoding="utf-8") as stream:
        StatusLine(stream).put(text)
        written = os.read(main, 1000).decode()
        StatusLine._standing = None  # this terminal closes
    os.close(main)
    assert written == f"\r{'a text of words wo…' if columns == 20 else text}"


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


def test_what_is_said_meanwhile_stands_below_the_line(monkeypatch):
    monkeypatch.setattr(sys, "stderr", Terminal())
    StatusLine().put("halfway")
    say("Training a vocabulary …")
    say("Trained it.")
    assert sys.stderr.getvalue() == "\rhalfway\nTraining a vocabulary …\nTrained it.\n"


def test_every_text_is_a_line_of_a_log():
    stream = io.StringIO()
    line = StatusLine(stream)
    line.put("a long text")
    line.put("a text")
    line.end()
    assert stream.getvalue() == "a long text\na text\n"


def test_when_a_text_is_due(monkeypatch):
    monkeypatch.setattr(StatusLine, "live_secs", 0.5)
    monkeypatch.setattr(StatusLine, "quiet_secs", 4.0)
    now = [0.0]
    for stream, period in ((Terminal(), 0.5), (io.StringIO(), 4.0)):
        line = StatusLine(stream, clock=lambda: now[0])
        assert not line.is_due()
        now[0] += period
        assert line.is_due()
        line.put("x")
        assert not line.is_due()
        assert StatusLine(stream, clock=lambda: now[0], at_once=True).is_due()


def test_a_state_is_told_once():
    stream = io.StringIO()
    line = StatusLine(stream, at_once=True)
    for state, now in ((1, False), (1, True), (2, False), (2, True), (2, True)):
        line.show(state, lambda: f"at {state}", now=now)  # noqa: B023
    assert stream.getvalue() == "at 1\nat 2\n"


def test_a_note_stands_below_the_line():
    stream = Terminal()
    line = StatusLine(stream)
    line.put("a text")
    line.note("a table")
    assert stream.getvalue() == "\ra text\na table\n"


class Heard(io.StringIO):
    """Tells when something was written."""

    def __init__(self):
        super().__init__()
        self.event = threading.Event()

    def flush(self) -> None:
        self.event.set()


class HeardTerminal(Heard, Terminal):
    pass


@pytest.mark.parametrize(
    ("stream", "told"),
    [(Heard(), "compiling the step, 12 s\n"), (HeardTerminal(), "\rcompiling the step, 12 s")],
)
def test_what_takes_long_is_told_with_its_seconds(monkeypatch, stream, told):
    monkeypatch.setattr(status_line, "_TICK_SECS", 0.01)
    times = itertools.chain([100.0, 100.0], itertools.repeat(112.3))
    line = StatusLine(stream, clock=lambda: next(times))
    line.quiet_secs = 0.01

    def fail() -> None:
        with line.during("compiling the step"):
            assert stream.event.wait(60.0)
            raise ValueError("too big")

    with pytest.raises(ValueError, match="too big"):
        fail()
    text = stream.getvalue()
    assert text.startswith(told)
    assert text.endswith("12 s\n")  # what is printed next stands below it


def test_what_is_over_at_once_is_not_told():
    stream = io.StringIO()
    with StatusLine(stream).during("compiling the step"):
        pass
    assert stream.getvalue() == ""


@pytest.fixture
def clock(monkeypatch):
    """A clock that a test sets."""
    now = [100.0]
    monkeypatch.setattr(status_line.time, "monotonic", lambda: now[0])
    return now


def test_the_rate_is_that_of_this_start(clock):
    bar = Progress("infer", 1000, "prompts", done=900, stream=io.StringIO())
    clock[0] += 10
    bar.advance(50)
    assert bar.line() == "infer: 950/1000 prompts, 5.0/s, 10 s left"


def test_a_log_file_gets_a_line_every_ten_seconds(clock):
    stream = io.StringIO()
    bar = Progress("evaluate", 100, "examples", stream=stream)
    for _ in range(25):
        clock[0] += 1
        bar.advance(1)
    bar.close()
    written = stream.getvalue().splitlines()
    assert [re.split(r"[ /]", line)[1] for line in written] == ["10", "20", "25"]


def test_bytes_are_told_in_a_larger_unit(clock):
    stream = io.StringIO()
    bar = Progress("imported", 4_000_000_000, "MB", per=10**6, stream=stream)
    for _ in range(4):
        clock[0] += 5
        bar.advance(1_000_000_000)
    bar.close()
    assert stream.getvalue().splitlines() == [
        "imported: 2000/4000 MB, 200.0/s, 10 s left",
        "imported: 4000/4000 MB, 200.0/s",
    ]


def test_a_last_line_that_stands_there_is_not_repeated(clock):
    stream = io.StringIO()
    for end in (11, 1):  # the last batch was told of, or came too soon after the line before it
        bar = Progress("evaluate", 8, "examples", stream=stream)
        clock[0] += end
        bar.advance(8)
        bar.close()
    assert stream.getvalue() == "evaluate: 8/8 examples, 0.7/s\nevaluate: 8/8 examples, 8.0/s\n"


def test_a_terminal_has_one_line_of_progress(clock):
    stream = Terminal()
    bar = Progress("evaluate", 10, "examples", stream=stream)
    for _ in range(10):
        clock[0] += 0.125
        bar.advance(1)
    bar.close()
    assert stream.getvalue().count("\n") == 1
    assert stream.getvalue().count("\r") == 5
    quiet = Progress("evaluate", 10, "examples", enabled=False, stream=stream)
    clock[0] += 100
    quiet.advance(1)
    quiet.close()
    assert stream.getvalue().count("\n") == 1
