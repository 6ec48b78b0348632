"""Resuming with another configuration than the checkpoint's is refused, and the difference
shown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ul2tune.checkpoints.description import DescribedFields
from ul2tune.feed.config import DELIVERY_FIELDS, POSITION_FREE_FIELDS
from ul2tune.first_names import first_names
from ul2tune.models.base import METHOD_FIELDS

# What may change between two starts of one run without changing what it computes, but for rounding.
EXEMPT = frozenset(
    {
        *(f"data/{name}" for name in DELIVERY_FIELDS),
        *(f"model/{name}" for name in METHOD_FIELDS),
        "loss/chunk_tokens",
    }
)
# Of the run's own settings only these define it; the others say how long, how often, where.
RUN_FIELDS = ("seed", "num_microbatches", "ema_decay")
# A mixture of hundreds of tasks may differ in hundreds of places.
_MAX_TOLD = 20


def differences(saved: Mapping[str, Any], current: Mapping[str, Any]) -> list[str]:
    """``["model/d_model: 512 -> 256", …]`` for every setting that differs. A task that only one of
    them has is one difference, ``"prepared/rte: (absent) -> (present)"``.

    A field that is younger than the checkpoint does not differ while it is at its default: new
    fields default to what was done before they existed.
    """
    old, new = _flat_beside(saved, current), _flat_beside(current, saved)
    exempt = EXEMPT | (_at_default(current) - old.keys())
    return [
        f"{path}: {old.get(path, '(absent)')} -> {new.get(path, '(absent)')}"
        for path in sorted(old.keys() | new.keys())
        if path not in exempt and old.get(path, _MISSING) != new.get(path, _MISSING)
    ]


def told(changes: Sequence[str]) -> list[str]:
    """As many of the :func:`differences` as anybody reads, and how many more there are."""
    more = len(changes) - _MAX_TOLD
    return [*changes[:_MAX_TOLD], *([f"and {more} more"] if more > 0 else [])]


_MISSING = object()


def _flat_beside(config: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    """:func:`_flat`, but one entry for a prepared task that the other configuration lacks: a task
    has dozens of settings, a mixture hundreds of tasks."""
    tasks, others = (part.get("prepared", {}) for part in (config, other))
    both = {name: task for name, task in tasks.items() if name in others}
    lone = {f"prepared/{name}": "(present)" for name in tasks if name not in others}
    return {**_flat({**config, "prepared": both}), **lone}


def _items(value: Any, path: str) -> list[tuple[str, Any]] | None:
    """Path and value of everything inside; None of what holds nothing."""
    if isinstance(value, Mapping):
        items = list(value.items())
    elif isinstance(value, list):
        items = list(enumerate(value))
    else:
        return None
    return [(f"{path}/{key}" if path else str(key), item) for key, item in items]


def _flat(value: Any, path: str = "") -> dict[str, Any]:
    items = _items(value, path)
    if items is None:
        return {path: value}
    return {leaf: x for inner, item in items for leaf, x in _flat(item, inner).items()}


def _at_default(value: Any, path: str = "") -> frozenset[str]:
    """The paths that :func:`_flat` has for fields at their default."""
    names = value.at_default if isinstance(value, DescribedFields) else frozenset()
    own = frozenset(_flat({name: value[name] for name in names}, path))
    return own.union(*(_at_default(item, inner) for inner, item in _items(value, path) or ()))


def streams_restart(changes: Sequence[str]) -> str | None:
    """The sentence on those of the :func:`differences` that make a saved position in the data
    meaningless; None if there are none."""
    found = set()
    for change in changes:
        part, _, path = change.partition(":")[0].partition("/")
        name = path.partition("/")[0]
        if part == "prepared":
            found.add(f"prepared data of {name!r}")
        elif part == "data" and name not in POSITION_FREE_FIELDS:
            found.add(f"FeedConfig.{name}")
    if not found:
        return None
    return (
        f"With other {first_names(sorted(found))} the saved position in the data means nothing: "
        "its streams start from the beginning, and examples already seen in this epoch may come "
        "again."
    )


def _schedule_redrawn(changes: Sequence[str]) -> str | None:
    """What allowing another end of the schedule does, and why the end may have changed; None if
    there is none."""
    ends = [c.split(" -> ") for c in changes if c.startswith("optimizer/schedule/total_steps: ")]
    if not ends:
        return None
    ((_, now),) = ends
    return (
        "In the files of gin/optim the schedule's total_steps follow TRAIN_STEPS unless "
        f"SCHEDULE_STEPS is set. Allowed, the schedule is redrawn to end at {now}, and the "
        "learning rate may jump to what that has at this step."
    )


def check(saved: Mapping[str, Any], current: Mapping[str, Any], *, allow: bool, where: str) -> None:
    """Raises unless the configurations agree or may differ.

    Raises:
      ValueError: naming the differences.
    """
    found = differences(saved, current)
    if found and not allow:
        notes = [note for note in (_schedule_redrawn(found), streams_restart(found)) if note]
        raise ValueError(
            f"{where} was made with another configuration (saved -> now):\n  "
            + "\n  ".join(told(found))
            + "\nUse the saved configuration, another MODEL_DIR, or allow it with "
            "RunConfig.allow_config_change = True." + "".join(f"\n{note}" for note in notes)
        )
