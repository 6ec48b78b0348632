"""What the tests' gin files configure: the least that has every kind of parameter."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol


@dataclass(frozen=True, kw_only=True)
class Model:
    width: int
    rate: float = 0.1
    kind: str | None = None
    lengths: Mapping[str, int] = field(default_factory=lambda: {"inputs": 4})
    activation: Callable[..., Any] = max

    def __post_init__(self):
        if self.width < 1:
            raise ValueError(f"Model.width = {self.width} must be positive.")


@dataclass(frozen=True, kw_only=True)
class Run:
    model_dir: str
    steps: int = 3


def optimizer(rate: float = 1.0) -> float:
    return rate


def train(model: Model, run: Run, make_optimizer: Any = None, hooks: Any = ()) -> dict[str, Any]:
    return {"model": model, "run": run, "make_optimizer": make_optimizer, "hooks": hooks}


def other(model: Model) -> Model:
    return model


class Hook(Protocol):
    period: int

    def __call__(self, step: int) -> None: ...


@dataclass(frozen=True, kw_only=True)
class Show:
    """A hook."""

    period: int = 1

    def __call__(self, step: int) -> None:
        print(step)


def lacking(step: int) -> None:
    """No hook: it has no period."""


def with_period(step: int) -> None:
    """A hook that is a function."""


with_period.period = 1  # type: ignore[attr-defined]


def typed(
    model: Model | None = None,
    init: Callable[[int], int] | None = None,
    hooks: Sequence[Hook] = (),
    pair: tuple[str, int] | None = None,
    names: tuple[str, ...] = (),
    rates: Mapping[str, float] | None = None,
) -> dict[str, Any]:
    return {"model": model, "init": init, "hooks": hooks, "pair": pair, "names": names}


def fails(kind: str) -> float:
    """Raises what file systems and bugs raise."""
    raise {"io": OSError(2, "No such file", "x"), "bug": KeyError("x")}[kind]
