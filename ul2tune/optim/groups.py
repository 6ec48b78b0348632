"""Parameter groups: ordered tables of regular expressions over ``a/b/c`` parameter paths.

A table is a sequence of ``(pattern, value)``. A parameter takes the value of the first pattern that
matches its whole path (`re.fullmatch`). Nothing is left to chance: every parameter must be covered,
and every pattern must decide at least one parameter.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TypeVar

from ul2tune.nearest import closest

T = TypeVar("T")
Table = Sequence[tuple[str, T]]
FREEZE = "freeze"


def assign(table: Table[T], paths: Sequence[str], field: str) -> dict[str, tuple[str, T]]:
    """Returns ``{path: (pattern, value)}`` for every path.

    Args:
      table: ordered (pattern, value) pairs.
      paths: all parameter paths.
      field: the configuration field the table comes from, for messages.

    Raises:
      ValueError: for a pattern that is no regular expression or stands there twice, a parameter no
        pattern matches, a pattern that matches no parameter, or one whose parameters are all taken
        by earlier patterns (a closing ``".*"`` may be left without any).
    """
    patterns = [_compile(pattern, field) for pattern, _ in table]
    _reject_repeated([pattern for pattern, _ in table], field)
    assigned: dict[str, tuple[str, T]] = {}
    for path in paths:
        for (pattern, value), compiled in zip(table, patterns):
            if compiled.fullmatch(path):
                assigned[path] = (pattern, value)
                break
        else:
            near = closest(path, [pattern for pattern, _ in table], cutoff=0.0)
            raise ValueError(
                f"{field} does not cover parameter {path!r} (nearest pattern: "
                f"{'none, the table is empty' if near is None else near!r}); "
                f"add a pattern for it, or a last entry for '.*'."
            )
    deciding = {pattern for pattern, _ in assigned.values()}
    for (pattern, _), compiled in zip(table, patterns):
        if pattern not in deciding:
            _reject_idle(pattern, compiled, paths, field, last=pattern == table[-1][0])
    return assigned


def _compile(pattern: str, field: str) -> re.Pattern[str]:
    try:
        return re.compile(pattern)
    except re.error as error:
        raise ValueError(f"{field}: {pattern!r} is not a regular expression: {error}.") from error


def _reject_repeated(patterns: Sequence[str], field: str) -> None:
    """Raises for a pattern that stands there twice: entries are told apart by their patterns."""
    for index, pattern in enumerate(patterns):
        if pattern in patterns[:index]:
            first = patterns.index(pattern) + 1
            raise ValueError(
                f"{field}: entries {first} and {index + 1} have the same pattern {pattern!r}, so "
                f"the later one would decide nothing. Remove one of them."
            )


def _reject_idle(pattern: str, compiled: re.Pattern, paths: Sequence[str], field: str, last: bool):
    """Raises for a pattern that decides no parameter."""
    matches = [path for path in paths if compiled.fullmatch(path)]
    if not matches:
        near = closest(pattern, paths, cutoff=0.0)
        raise ValueError(
            f"{field}: pattern {pattern!r} matches no parameter; the nearest is "
            f"{near or 'none'!r}. Patterns match whole paths: use '.*' for the rest."
        )
    if not (last and pattern == ".*"):
        raise ValueError(
            f"{field}: pattern {pattern!r} decides nothing, as earlier patterns already match all "
            f"its parameters (such as {matches[0]!r}). The first match counts: move it up."
        )
