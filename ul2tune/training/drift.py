"""Resuming with another configuration than the checkpoint's is refused, and the difference
shown."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from ul2tune.feed.config import DELIVERY_FIELDS

# What may change between two starts of one run without changing what it computes, but for rounding.
EXEMPT = frozenset(
    {
        *(f"data/{name}" for name in DELIVERY_FIELDS),
        *(f"model/{name}" for name in ("remat", "attention", "attention_chunk_tokens")),
    }
)
# Of the run's own settings only these define it; the others say how long, how often, where.
RUN_FIELDS = ("seed", "num_microbatches", "ema_decay")


def describe(value: Any) -> Any:
    """Any configuration as plain JSON; dataclasses carry their class name."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {f.name: describe(getattr(value, f.name)) for f in dataclasses.fields(value)}
        return {"class": type(value).__name__, **fields}
    if isinstance(value, Mapping):
        return {str(key): describe(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [describe(item) for item in value]
    if value is None or isinstance(value, bool | int | float | str):
        return value
    return getattr(value, "__qualname__", None) or repr(value)


def differences(saved: Mapping[str, Any], current: Mapping[str, Any]) -> list[str]:
    """``["model/d_model: 512 -> 256", …]`` for every setting that differs."""
    old, new = _flat(saved), _flat(current)
    return [
        f"{path}: {old.get(path, '(absent)')} -> {new.get(path, '(absent)')}"
        for path in sorted(old.keys() | new.keys())
        if path not in EXEMPT and old.get(path, _MISSING) != new.get(path, _MISSING)
    ]


_MISSING = object()


def _flat(value: Any, path: str = "") -> dict[str, Any]:
    if isinstance(value, Mapping):
        items = value.items()
    elif isinstance(value, list):
        items = enumerate(value)
    else:
        return {path: value}
    flat: dict[str, Any] = {}
    for key, item in items:
        flat.update(_flat(item, f"{path}/{key}" if path else str(key)))
    return flat


def check(saved: Mapping[str, Any], current: Mapping[str, Any], *, allow: bool, where: str) -> None:
    """Raises unless the configurations agree or may differ.

    Raises:
      ValueError: naming every difference.
    """
    found = differences(saved, current)
    if found and not allow:
        raise ValueError(
            f"{where} was made with another configuration (saved -> now):\n  "
            + "\n  ".join(found)
            + "\nUse the saved configuration, another MODEL_DIR, or allow it with "
            "RunConfig.allow_config_change = True."
        )
