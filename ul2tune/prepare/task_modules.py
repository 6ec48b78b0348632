"""Imports the modules that register tasks; mistakes in them are named with file and line."""

from __future__ import annotations

import importlib
import os
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path

_IMPORTLIB = os.path.dirname(importlib.__file__)


def import_modules(modules: Sequence[str]) -> None:
    """Imports the modules that register tasks, also from the working directory.

    Raises:
      ValueError: if Python does not find one.
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
                # It is there, what it needs is not.
                kind = ModuleNotFoundError if is_absent else ImportError
                what = f"TASK_MODULES {module!r}, {_where(error)}: {error}"
                raise kind(what, name=error.name, path=error.path) from error
            raise ValueError(
                f"TASK_MODULES names {module!r}, which Python does not find from {os.getcwd()}."
            ) from error


def _where(error: ImportError) -> str:
    """File and line of the import that failed, the file as seen from the working directory."""
    frames = traceback.extract_tb(error.__traceback__)
    frame = [f for f in frames if not f.filename.startswith((_IMPORTLIB, "<frozen"))][-1]
    path = Path(frame.filename)
    if path.is_relative_to(Path.cwd()):
        path = path.relative_to(Path.cwd())
    return f"{path}:{frame.lineno}"
