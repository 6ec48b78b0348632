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


def test_a_terminal_has_one_line(clock):
    stream = Terminal()
    bar = Progress("evaluate", 10, stream=stream)
    for _ in range(10):
        clock[0] += 0.2
        bar.advance(1)
    bar.close()
    assert stream.getvalue().count("\n") == 1
    assert stream.getvalue().count("\r") == 6
    quiet = Progress("evaluate", 10, enabled=False, stream=stream)
    clock[0] += 100
    quiet.advance(1)
    quiet.close()
    assert stream.getvalue().count("\n") == 1
