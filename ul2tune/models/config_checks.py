"""The checks that all model configurations share; errors name class, field and value."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Annotated, Any

from ul2tune.models.attention import IMPLEMENTATIONS
from ul2tune.models.folding import REMAT
from ul2tune.models.layers import ACTIVATIONS

# Field -> what it may be, where a configuration has it.
_CHOICES: Mapping[str, tuple[str, ...]] = {
    "activation": tuple(ACTIVATIONS),
    "dtype": ("float32", "bfloat16"),
    "remat": tuple(REMAT),
    "attention": IMPLEMENTATIONS,
}


# The types of these fields, which say what they may be to whoever reads them (`cli.gin_check`).
Activation = Annotated[str, _CHOICES["activation"]]
Dtype = Annotated[str, _CHOICES["dtype"]]
Remat = Annotated[str, _CHOICES["remat"]]
Attention = Annotated[str, _CHOICES["attention"]]


def check_choices(config: Any, **further: tuple[str, ...]) -> None:
    """Activation, dtype and how it is computed; and the `further` fields with what they may be."""
    for name, allowed in {**_CHOICES, **further}.items():
        if getattr(config, name) not in allowed:
            raise _error(config, name, f"is not one of {allowed}")


def check_sizes(config: Any, names: Iterable[str]) -> None:
    """Positive integers; a bool is none."""
    for name in names:
        if type(value := getattr(config, name)) is not int or value < 1:
            raise _error(config, name, "must be an integer >= 1")


def check_positive(config: Any, *names: str) -> None:
    """Numbers above 0."""
    for name in names:
        if not getattr(config, name) > 0:
            raise _error(config, name, "must be positive")


def check_rates(config: Any, *names: str) -> None:
    """Probabilities of dropping."""
    for name in names:
        if not 0.0 <= getattr(config, name) < 1.0:
            raise _error(config, name, "is not in [0, 1)")


def check_problems(config: Any, problems: Iterable[tuple[bool, str]]) -> None:
    """Raises for the first problem that is there: what it is, after the name of the class."""
    for found, problem in problems:
        if found:
            raise ValueError(f"{type(config).__name__}: {problem}.")


def _error(config: Any, name: str, problem: str) -> ValueError:
    return ValueError(f"{type(config).__name__}.{name} = {getattr(config, name)!r} {problem}.")
