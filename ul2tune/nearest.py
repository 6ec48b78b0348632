"""Which known name an unknown one may stand for, for messages: "did you mean …?"."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def did_you_mean(name: str, known: Iterable[str], *, cutoff: float = 0.6) -> str:
    """`" (did you mean 'x'?)"`, or nothing where nothing is near; as :func:`closest`."""
    close = closest(name, known, cutoff=cutoff)
    return f" (did you mean {close!r}?)" if close else ""


def closest(name: str, known: Iterable[str], *, cutoff: float = 0.6) -> str | None:
    """The most similar of the known names but the name itself, if one is similar; capitals do not
    count.

    Args:
      name: as it was written.
      known: the names there are.
      cutoff: the least similarity, as `difflib` measures it: 0 = any name, 1 = the same.
    """
    folded = {item.lower(): item for item in known if item != name}
    close = difflib.get_close_matches(name.lower(), folded, n=1, cutoff=cutoff)
    return folded[close[0]] if close else None
