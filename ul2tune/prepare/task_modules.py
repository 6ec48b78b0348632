"""Imports the modules that register tasks; mistakes in them are named with file and line."""

from __future__ import annotations

import importlib
import os
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path

_IMPORTLIB = os.path.dirname(importlib.__file__)
_PACKAGE = Path(__file__).parents[1]
# An error inside an installed package is reported at the line of the task module that called it.
_INSTALLED = f"{os.sep}site-packages{os.sep}"


def import_modules(modules: Sequence[str], setting: str = "TASK_MODULES") -> None:
    """Imports the modules that register tasks, also from the working directory.

    Args:
      modules: their names.
      setting: what names them, for the error.

    Raises:
      ValueError: if Python does not find one, or it fails: naming its line, unless the error is one
        of ours and says what is wrong by itself.
      ImportError: if one needs what Python does not find, naming the line that asks for it.
    """
    if os.getcwd() not in sys.path:  # a project's own `tasks` package, from a console script
        sys.path.insert(0, os.getcwd())
    for module in modules:
        try:
            importlib.import_module(module)
        except ImportError as error:
            is_absent = isinstance(error, ModuleNotFoundError)
            if not (is_absent and f"{module}.".startswith(f"{error.name}.")):
                # The module was found, but something that it imports was not.
                kind = ModuleNotFoundError if is_absent else ImportError
                what = f"{setting} {module!r}, {_where(error)}: {error}"
                raise kind(what, name=error.name, path=error.path) from error
            raise ValueError(
                f"{setting} names {module!r}, which Python does not find from {os.getcwd()}."
            ) from error
        except (OSError, MemoryError):
            raise  # the command line says what to do about these
        except Exception as error:
            if (told := _told(error)) is None:
                raise
            raise ValueError(f"{setting} {module!r}, {told}") from error


def _told(error: Exception) -> str | None:
    """Where and how a task module failed. None for an error that this package raised: its message
    says what is wrong, or it is a bug of ours."""
    if isinstance(error, SyntaxError):
        return f"{_relative(error.filename or '')}:{error.lineno} is not valid Python: {error.msg}."
    frames = _frames(error)
    if _is_ours(frames[-1]):
        return None
    theirs = [f for f in frames if not (_is_ours(f) or _INSTALLED in f.filename)]
    return f"{_at((theirs or frames)[-1])}: {type(error).__name__}: {error}"


def _is_ours(frame: traceback.FrameSummary) -> bool:
    """Whether a frame is of this package; the tasks of the project in it are a user's."""
    path = Path(frame.filename)
    return path.is_relative_to(_PACKAGE) and not path.is_relative_to(_PACKAGE / "project")


def _where(error: ImportError) -> str:
    """File and line of the import that failed, the file as seen from the working directory."""
    return _at(_frames(error)[-1])


def _frames(error: Exception) -> list[traceback.FrameSummary]:
    """Where an error came through, without Python's own import machinery."""
    frames = traceback.extract_tb(error.__traceback__)
    return [f for f in frames if not f.filename.startswith((_IMPORTLIB, "<frozen"))]


def _at(frame: traceback.FrameSummary) -> str:
    return f"{_relative(frame.filename)}:{frame.lineno}"


def _relative(filename: str) -> Path:
    path = Path(filename)
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path
