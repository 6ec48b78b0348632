"""What the shipped run files read, found by parsing alone: nothing is imported."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from gin import config_parser

from ul2tune.cli import project
from ul2tune.cli.gin_source import macros_in, statements


@dataclass(frozen=True)
class RunFile:
    """A file of gin/runs with all that it includes.

    Attributes:
      name: as given to `--gin_file`.
      macros: it uses or defines.
      bound: import paths of the functions and classes it binds.
    """

    name: str
    macros: frozenset[str]
    bound: frozenset[str]


@cache
def shipped() -> tuple[RunFile, ...]:
    root = project.project_root() / "gin"
    return tuple(_read(path, root) for path in sorted((root / "runs").glob("*.gin")))


@cache
def well_known_macros() -> frozenset[str]:
    """Macros that some run file uses."""
    return frozenset().union(*(file.macros for file in shipped()))


def readers(macro: str, root: Callable[..., Any]) -> list[str]:
    """The run files of the command whose root function is `root` that use a macro."""
    path = f"{root.__module__}.{root.__name__}"
    return [file.name for file in shipped() if path in file.bound and macro in file.macros]


def _read(path: Path, root: Path) -> RunFile:
    macros, bound, imports = set(macros_in(path)), set(), {}
    for statement in statements(path):
        if isinstance(statement, config_parser.IncludeStatement):
            included = _read(root / statement.filename, root)
            macros |= included.macros
            bound |= included.bound
        elif isinstance(statement, config_parser.ImportStatement):
            imports[statement.bound_name()] = statement.module
        elif isinstance(statement, config_parser.BindingStatement) and statement.arg_name:
            module, _, rest = statement.selector.partition(".")
            bound.add(f"{imports[module]}.{rest}")
    return RunFile(path.relative_to(root).as_posix(), frozenset(macros), frozenset(bound))
