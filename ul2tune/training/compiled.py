"""The training step, compiled ahead of time and never again."""

from __future__ import annotations

import time
from typing import Any

import jax

from ul2tune.models import base
from ul2tune.training.state import StateSpec
from ul2tune.training.step import Metrics, StepConfig, train_step
from ul2tune.types import Batch, Tree


class CompiledStep:
    """`train_step` as one executable: arguments of another shape, dtype or sharding are an error,
    not a silent recompilation.

    Attributes:
      compile_secs: how long compiling (or loading from the persistent cache) took.
      temporary_bytes: memory of one device beside state and batch, where the backend tells.
    """

    compile_secs: float = 0.0
    temporary_bytes: int | None = None

    def __init__(self, config: StepConfig, spec: StateSpec):
        shardings = jax.tree.map(lambda x: x.sharding, spec.state)
        self._config = config
        # Static rather than bound: to JAX, steps of equal configurations are one function.
        self._jitted = jax.jit(
            train_step,
            static_argnames="config",
            donate_argnums=0,
            out_shardings=(shardings, None),
            compiler_options=base.compiler_options(config.model),
        )
        self._executable: Any = None

    @property
    def is_compiled(self) -> bool:
        return self._executable is not None

    def compile(self, state: Tree, frozen: Tree, batch: Batch) -> None:
        """Compiles for these arguments (arrays or `jax.ShapeDtypeStruct` with shardings)."""
        assert not self.is_compiled
        start = time.perf_counter()
        self._executable = self._jitted.lower(state, frozen, batch, config=self._config).compile()
        self.compile_secs = time.perf_counter() - start
        memory = self._executable.memory_analysis()
        self.temporary_bytes = getattr(memory, "temp_size_in_bytes", None)

    def hlo(self) -> str:
        """The optimised program, as text."""
        return self._executable.as_text()

    def __call__(self, state: Tree, frozen: Tree, batch: Batch) -> tuple[dict[str, Any], Metrics]:
        """Runs one step; `state` is donated."""
        return self._executable(state, frozen, batch)
