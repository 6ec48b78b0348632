"""One program for several runs: to JAX, the steps of equal recipes are one function."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import pytest

from ul2tune.optim import optimizer


@contextlib.contextmanager
def one_program() -> Iterator[None]:
    """Optimisers of equal configurations are one object within: a step is then the one that another
    run or trainer has compiled."""
    made: dict[Any, Any] = {}

    def make(config: Any, params: Any, axes: Any) -> Any:
        key = (config, repr(params), repr(axes))
        if key not in made:
            made[key] = original(config, params, axes)
        return made[key]

    original = optimizer.make
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(optimizer, "make", make)
        yield
