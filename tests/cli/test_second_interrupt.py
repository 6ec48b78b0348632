"""A second Ctrl-C ends what hears none."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest

from ul2tune.cli import second_interrupt

# A lock that is taken twice: like a compilation, this is outside of Python and hears no signal.
STUCK = """
import ctypes, os, signal, sys
from ul2tune.cli import main, second_interrupt

def stuck():
    library, mutex = ctypes.CDLL(None), ctypes.create_string_buffer(64)
    print("begins", flush=True)
    library.pthread_mutex_lock(mutex)
    library.pthread_mutex_lock(mutex)
"""
# An interrupt that comes before the lock is taken is not heard either.
COMMAND = """
def command():
    while True:
        try:
            stuck()
        except KeyboardInterrupt:
            pass
"""
SILENT = (
    COMMAND
    + """
def silent():
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    command()
main.main = silent
main.script()
"""
)
PUT_BACK = (
    COMMAND
    + """
second_interrupt.ends()
try:
    print("begins", flush=True)
    signal.pause()
except KeyboardInterrupt:
    sys.stdin.readline()
    signal.signal(signal.SIGINT, signal.default_int_handler)
    command()
"""
)
COMMAND += """
main.main = command
main.script()
"""
ORDERLY = """
second_interrupt._PATIENCE_SECS = 60
def command():
    try:
        print("begins", flush=True)
        signal.pause()
    except KeyboardInterrupt:
        return second_interrupt.STATUS
main.main = command
sys.exit(main.script())
"""
OVER = """
main.main = lambda: 0
main.script()
stuck()
"""
FORKS = """
second_interrupt.ends()
child = os.fork()
if not child:
    os._exit(signal.set_wakeup_fd(-1) == -1)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
ANOTHER = """
signal.signal(signal.SIGINT, {handler})
main.main = lambda: print(signal.set_wakeup_fd(-1))
main.script()
print(signal.getsignal(signal.SIGINT) == {handler})
"""
TOLD = second_interrupt._TOLD.decode()


def start(code: str) -> subprocess.Popen[str]:
    pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    return subprocess.Popen([sys.executable, "-c", STUCK + code], text=True, **pipes)


@pytest.mark.parametrize(
    ("code", "status"),
    [
        (COMMAND, -signal.SIGINT),
        (SILENT, -signal.SIGINT),
        (PUT_BACK, second_interrupt.STATUS),
    ],
)
def test_a_second_interrupt_ends_what_does_not_hear_the_first(code, status):
    with start(code) as child:
        assert child.stdout is not None
        assert child.stderr is not None
        assert child.stdout.readline() == "begins\n"
        child.send_signal(signal.SIGINT)
        assert child.stderr.readline() + child.stderr.readline() == TOLD
        if code == PUT_BACK:
            print(file=child.stdin, flush=True)
            assert child.stdout.readline() == "begins\n"
        child.send_signal(signal.SIGINT)
        assert child.wait() == status
        assert child.stderr.read() == ""


def test_a_command_that_ends_soon_says_nothing_more():
    with start(ORDERLY) as child:
        assert child.stdout is not None
        assert child.stderr is not None
        assert child.stdout.readline() == "begins\n"
        child.send_signal(signal.SIGINT)
        assert child.wait() == second_interrupt.STATUS
        assert child.stderr.read() == ""


def test_the_first_ends_what_is_left_of_the_process_after_its_command():
    with start(OVER) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "begins\n"
        child.send_signal(signal.SIGINT)
        assert child.wait() == -signal.SIGINT


def test_the_interrupt_of_a_forked_child_is_none_of_its_parent_s():
    with start(FORKS) as child:
        assert child.communicate()[0] == "1\n"


@pytest.mark.parametrize("handler", ["signal.SIG_IGN", "print"])
def test_who_handles_interrupts_otherwise_is_left_alone(handler):
    with start(ANOTHER.format(handler=handler)) as child:
        assert child.communicate() == ("-1\nTrue\n", "")
