"""Configurations as JSON, as checkpoints record them, and back.

{"class": "DecoderConfig", "d_model": 512, "rope": {"class": "Rope", "theta": 10000.0, …}, …}
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ul2tune.checkpoints import layout
from ul2tune.feed.config import fields_at_default
from ul2tune.models import base
from ul2tune.models.rotary import Rope
from ul2tune.models.t5gemma import StackConfig

# The classes that a model's configuration is made of.
_MODELS = {cls.__name__: cls for cls in (*base.MODULES, StackConfig, Rope)}


class DescribedFields(dict[str, Any]):
    """What :func:`describe` makes of a dataclass, with the names of fields at their default."""

    at_default: frozenset[str] = frozenset()


def describe(value: Any) -> Any:
    """Any configuration as plain JSON; dataclasses carry their class name."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {f.name: describe(getattr(value, f.name)) for f in dataclasses.fields(value)}
        described = DescribedFields({"class": type(value).__name__, **fields})
        described.at_default = fields_at_default(value)
        return described
    if isinstance(value, Mapping):
        return {str(key): describe(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [describe(item) for item in value]
    if value is None or isinstance(value, bool | int | float | str):
        return value
    return getattr(value, "__qualname__", None) or repr(value)


def model_of(step_dir: Path) -> Any:
    """The model configuration that a checkpoint records.

    Raises:
      ValueError: if it records none, or one that this version does not know.
    """
    described = layout.read_meta(step_dir).get("config", {}).get("model", {})
    if "class" not in described:
        raise ValueError(f"{step_dir} does not say which model it holds.")
    try:
        return _restored(described)
    except TypeError as error:
        raise ValueError(
            f"{step_dir} was written by another version of ul2tune: {error}."
        ) from None


def _restored(value: Any) -> Any:
    """A configuration of a model from what :func:`describe` made of it."""
    if isinstance(value, Mapping):
        cls = _MODELS.get(value["class"])
        if cls is None:
            raise TypeError(f"there is no class {value['class']!r} here")
        return cls(**{name: _restored(item) for name, item in value.items() if name != "class"})
    return tuple(value) if isinstance(value, list) else value
