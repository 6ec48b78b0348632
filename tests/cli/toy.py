"""What the tests' gin files configure: the least that has every kind of parameter."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any


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
