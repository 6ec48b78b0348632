"""Exceptions that are sent to another process."""

from __future__ import annotations

import pickle
import threading

import pytest

from ul2tune.portable_error import portable


class TwoArguments(Exception):
    """Pickled, but not unpickled: its class is called with the message alone."""

    def __init__(self, what: str, where: str):
        super().__init__(f"{what} in {where}")


class Holding(Exception):
    """Not even pickled."""

    def __init__(self, message: str):
        super().__init__(message)
        self.lock = threading.Lock()


def test_an_error_that_survives_is_sent_itself():
    error = ValueError("wrong")
    assert portable(error) is error


@pytest.mark.parametrize("error", [TwoArguments("a hole", "line 3"), Holding("a hole in line 3")])
def test_others_say_the_same(error):
    error.add_note("Task 'own'")
    sent = pickle.loads(pickle.dumps(portable(error)))
    assert type(sent) is RuntimeError
    assert str(sent) == f"{type(error).__name__}: a hole in line 3"
    assert sent.__notes__ == ["Task 'own'"]
