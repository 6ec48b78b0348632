"""Which rows of a long table are shown: the heaviest, in the table's order."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TypeVar

# Of the tasks of a mixture.
MOST = 20
HINT = "--all shows every one"
_Row = TypeVar("_Row")


def divide(
    rows: Iterable[_Row], weight: Callable[[_Row], float], most: int | None
) -> tuple[list[_Row], list[_Row]]:
    """(the rows to show, those that are left out), both in order; None shows all.

    >>> divide([1, 5, 3, 4], float, 2)
    ([5, 4], [1, 3])
    """
    rows = list(rows)
    numbers = range(len(rows))
    heaviest = sorted(numbers, key=lambda number: -weight(rows[number]))
    kept = set(numbers if most is None else heaviest[:most])
    return [rows[n] for n in numbers if n in kept], [rows[n] for n in numbers if n not in kept]
