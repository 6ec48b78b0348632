"""The layout of rows (`FeedConfig.layout`) that a checkpoint was trained in.

A decoder-only model can read several, and its parameters do not show which one it knows: prompted
in another, it answers plausibly, but worse.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ul2tune.checkpoints import layout

# In the JSON of a checkpoint that no run saved.
KEY = "feed_layout"


def recorded(step_dir: Path) -> str | None:
    """The layout that a checkpoint was trained in; None if it does not say (imported ones)."""
    meta = layout.read_meta(step_dir)
    return meta.get(KEY) or meta.get("config", {}).get("data", {}).get("layout")


def carried(step_dirs: Iterable[Path]) -> dict[str, Any]:
    """For the JSON of a checkpoint made of others: their layout, if all that record one agree."""
    known = {recorded(step_dir) for step_dir in step_dirs} - {None}
    return {KEY: known.pop()} if len(known) == 1 else {}
