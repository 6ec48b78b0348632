"""`ul2tune`: finds the command, runs it, and turns user mistakes into one sentence on stderr."""

from __future__ import annotations

import contextlib
import errno
import importlib
import os
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path

from ul2tune import signal_handlers, status_line
from ul2tune.cli import distributed, extras, parent, project, second_interrupt, warned
from ul2tune.cli import options as options_lib
from ul2tune.data import cache

# Errors whose message is written for the user. Everything else is a bug and keeps its traceback.
_USER_ERRORS = (ValueError, OSError, ImportError, FloatingPointError, MemoryError)

_RIGHTS = "Name another place, or ask for the right to use this one."
_REMEDIES = {
    errno.EACCES: _RIGHTS,
    errno.EPERM: _RIGHTS,
    errno.EROFS: "Name another place: nothing can be written to this one.",
    errno.ENOENT: "Check the path.",
    errno.ENOTDIR: "Check the path: a part of it is a file, not a folder.",
    errno.EISDIR: "Check the path: a file is needed there, and it is a folder.",
    errno.ENOSPC: "Free some space, then run the same command again.",
    errno.EDQUOT: "Free some of your quota, then run the same command again.",
}


def script() -> int:
    """The process of :func:`main`. It ends at a second Ctrl-C, whatever it is doing, and with the
    command it works for, if there is one."""
    second_interrupt.ends()
    parent.end_with()
    warned.on_stderr()
    try:
        return main()
    finally:
        second_interrupt.next_ends()


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command; returns 0, 1 (failed), 2 (wrong usage) or 130 (interrupted)."""
    argv = sys.argv[1:] if argv is None else argv
    try:
        options = options_lib.parse(argv)
    except options_lib.UsageError as error:
        print(f"ul2tune: {error}", file=sys.stderr)
        return 2
    _environment()
    module, _ = options_lib.COMMANDS[options.command]
    try:
        with signal_handlers.interrupts_wait():
            command = importlib.import_module(module)
        with signal_handlers.interrupts():  # what is ignored before a loop is raised in it
            command.run(options)
    except KeyboardInterrupt:
        print(f"\nul2tune {options.command}: interrupted.", file=sys.stderr)
        return distributed.leave(second_interrupt.STATUS)
    except BrokenPipeError:  # the reader of our output (`| head`) has gone
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except _USER_ERRORS as error:
        status_line.end_standing()
        if options.debug:
            traceback.print_exc()
        print(f"ul2tune {options.command}: {_sentence(error)}", file=sys.stderr)
        return distributed.leave(1)
    except Exception as error:
        status_line.end_standing()
        if not distributed.is_joined():
            raise
        sentence = distributed.lost_peer(error)
        if options.debug or sentence is None:
            traceback.print_exc()
        if sentence is not None:
            print(f"ul2tune {options.command}: {sentence}", file=sys.stderr)
        return distributed.leave(1)
    return 0


def _sentence(error: BaseException) -> str:
    """What went wrong and what to do; the operating system's errors know only the first."""
    if isinstance(error, ModuleNotFoundError):
        return f"{error}.{extras.remedy(error.name)}"
    if isinstance(error, MemoryError):
        return (
            f"Not enough memory{f' ({error})' if str(error) else ''}. Ask for less (BATCH_SIZE, "
            "TASK_FEATURE_LENGTHS, the model), or use a machine with more; --debug shows where."
        )
    # Those that we raise ourselves have a sentence instead of a number.
    if isinstance(error, OSError) and error.errno in _REMEDIES:
        names = [repr(name) for name in (error.filename, error.filename2) if name is not None]
        where = f"{' -> '.join(names)}: " if names else ""
        return f"{where}{error.strerror}. {_REMEDIES[error.errno]}"
    return str(error) or type(error).__name__


def _environment() -> None:
    """Settings needed before JAX or TensorFlow is imported; what the user has set stays."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    with contextlib.suppress(ValueError):  # no home: nothing is kept
        os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(cache.folder() / "jax"))
    # `tasks.…` is found in the working folder (as with `python -m`), else in the shipped project.
    if str(Path.cwd()) not in (os.path.abspath(path) for path in sys.path):
        sys.path.insert(0, str(Path.cwd()))
    if str(project.project_root()) not in sys.path:
        sys.path.append(str(project.project_root()))
