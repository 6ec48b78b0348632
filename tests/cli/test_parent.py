"""A child ends with its parent, also where that is killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

from ul2tune.cli import parent

CHILD = """
import os, sys, time
from ul2tune.cli import parent
parent.end_with()
print("on", flush=True)
time.sleep(float(sys.argv[1]))
print("still here", os.environ.get("UL2TUNE_PARENT"), file=sys.stderr)
"""
PARENT = f"""
import os, subprocess, sys
from ul2tune.cli import parent
command = [sys.executable, "-c", {CHILD!r}, "20"]
child = subprocess.Popen(command, env={{**os.environ, **parent.named()}}, stdout=subprocess.PIPE)
child.stdout.readline()
os.kill(os.getpid(), 9)
"""


def run(secs: str, environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", CHILD, secs]
    return subprocess.run(
        command, env={**os.environ, **environment}, capture_output=True, text=True
    )


def test_a_child_ends_with_its_killed_parent():
    # Reads until nobody has the pipe: the child has it too.
    ended = subprocess.run([sys.executable, "-c", PARENT], stderr=subprocess.PIPE)
    assert (ended.returncode, ended.stderr) == (-signal.SIGKILL, b"")


def test_a_parent_that_went_before_its_child_began_counts_too():
    ended = run("20", {"UL2TUNE_PARENT": "0"})  # no process has this number
    assert (ended.returncode, ended.stderr) == (1, "")


@pytest.mark.parametrize("named", [True, False])
def test_who_has_a_parent_or_names_none_goes_on(named):
    ended = run("1.5", parent.named() if named else {})
    assert (ended.returncode, ended.stderr) == (0, "still here None\n")
