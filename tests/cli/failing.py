"""A hook that fails in one of several processes, for tests' gin files."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import jax

from ul2tune.types import HookContext


@dataclass(frozen=True, kw_only=True)
class FailingHook:
    process: int
    period_steps: int = 1

    def __call__(self, context: HookContext) -> Mapping[str, float]:
        if jax.process_index() == self.process:
            raise ValueError(f"process {self.process} fails after step {context.step}")
        return {}
