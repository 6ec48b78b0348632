"""The first of many names, for messages."""

from __future__ import annotations

from collections.abc import Iterable

MOST = 5


def first_names(names: Iterable[object], most: int = MOST) -> str:
    """The first names, and how many more there are.

    >>> first_names(["a", "b"]), first_names("abcdefg")
    ('a, b', 'a, b, c, d, e and 2 more')
    """
    texts = [str(name) for name in names]
    more = f" and {len(texts) - most:,} more" if len(texts) > most else ""
    return f"{', '.join(texts[:most])}{more}"
