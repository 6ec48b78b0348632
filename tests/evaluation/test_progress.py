"""The progress line."""

from __future__ import annotations

import io
import re

import pytest

from ul2tune.evaluation import progress
from ul2tune.evaluation.progress import Progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def clock(monkeypatch):
    """A clock that a test sets."""
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


def test_the_rate_is_that_of_this_start(clock):
    bar = Progress("infer", 1000, "prompts", done=900, stream=io.StringIO())
    clock[0] += 10
    bar.advance(50)
    assert bar.line() == "infer: 950/1000 prompts, 5.0/s, 10 s left"


def test_a_log_file_gets_a_line_every_ten_seconds(clock):
    stream = io.StringIO()
    bar = Progress("evaluate", 100, stream=stream)
    for _ in range(25):
        clock[0] += 1
        bar.advance(1)
    bar.close()
    written = stream.getvalue().splitlines()
    assert [re.split(r"[ /]", line)[1] for line in written] == ["10", "20", "25"]


def test_a_last_line_that_stands_there_is_not_repeated(clock):
    stream = io.StringIO()
    for end in (11, 1):  # the last batch was told of, or came too soon after the line before it
        bar = Progress("evaluate", 8, stream=stream)
        clock[0] += end
        bar.advance(8)
        bar.close()
    assert stream.getvalue() == "evaluate: 8/8 examples, 0.7/s\nevaluate: 8/8 examples, 8.0/s\n"


def test_a_terminal_has_one_line(clock):
    stream = Terminal()
    bar = Progress("evaluate", 10, stream=stream)
    for _ in range(10):
        clock[0] += 0.2
        bar.advance(1)
    bar.close()
    assert stream.getvalue().count("\n") == 1
    assert stream.getvalue().count("\r") == 5
    quiet = Progress("evaluate", 10, enabled=False, stream=stream)
    clock[0] += 100
    quiet.advance(1)
    quiet.close()
    assert stream.getvalue().count("\n") == 1
