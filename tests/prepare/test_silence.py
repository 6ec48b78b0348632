"""Nothing is printed for a while, below Python too."""

import os
import sys

from ul2tune.prepare.silence import silent


def test_drops_what_is_printed_meanwhile(capfd):
    with silent(1, 2):
        os.write(1, b"from native code\n")
        os.write(2, b"from native code\n")
    os.write(1, b"after\n")
    assert capfd.readouterr() == ("after\n", "")


def test_keeps_what_was_printed_before(capfd, monkeypatch):
    """A pipe or a file gets it in blocks, and a worker's preprocessor may have printed it."""
    with os.fdopen(1, "w", closefd=False) as blocks:
        monkeypatch.setattr(sys, "stdout", blocks)
        print("before")
        with silent(1):
            print("meanwhile")
        print("after", flush=True)
    assert capfd.readouterr().out == "before\nafter\n"


def test_leaves_the_number_of_a_closed_stream_to_its_file(capfd, monkeypatch):
    monkeypatch.setattr(sys, "stderr", None)
    with silent(2):
        os.write(2, b"to a file of this number\n")
    assert capfd.readouterr().err == "to a file of this number\n"
