"""Full batches of items of one size each, out of a stream of mixed ones whose order is kept.

With sizes S and L, batches of 2 and a window of 4, the stream ``S0 L1 S2 S3 L4 S5 S6 …`` becomes

    by_size:   [S0 S2] [L1 L4] [S3 S5] …
    in_order:  [0]     [1 2]   [3 4 5] …
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator
from typing import TypeVar

T = TypeVar("T")


def by_size(
    items: Iterable[T], size: Callable[[T], Hashable], *, batch_size: int, window: int
) -> Iterator[list[tuple[int, T]]]:
    """Yields batches of equal size as they fill, and with them the items' numbers 0, 1, ….

    A batch is short only if `window` further items have come since its first one, or if no more
    come. So at most `window` items are ever ahead of their turn.
    """
    waiting: dict[Hashable, list[tuple[int, T]]] = {}  # the one that waits longest comes first
    for number, item in enumerate(items):
        key = size(item)
        batch = waiting.setdefault(key, [])
        batch.append((number, item))
        if len(batch) == batch_size:
            yield waiting.pop(key)
        if waiting:
            oldest = next(iter(waiting))
            if number - waiting[oldest][0][0] >= window:
                yield waiting.pop(oldest)
    yield from waiting.values()


def in_order(groups: Iterable[Iterable[tuple[int, T]]]) -> Iterator[list[T]]:
    """Yields, after each group of numbered results, those whose turn has come: 0, 1, 2, …."""
    held: dict[int, T] = {}
    turn = 0
    for group in groups:
        held.update(group)
        ready = []
        while turn in held:
            ready.append(held.pop(turn))
            turn += 1
        if ready:
            yield ready
