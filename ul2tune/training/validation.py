"""Validation loss: the split's first batches, the same ones every time."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

import jax
import numpy as np
from jax.sharding import Mesh

from ul2tune import sharding
from ul2tune.models import base
from ul2tune.training.metrics import add, fetch, means
from ul2tune.training.step import StepConfig, eval_step
from ul2tune.types import Tree


class Validation:
    """Callable ``params -> {"validation/loss": …}`` over a fixed set of batches.

    Args:
      batches: starts a fresh pass and returns its batches (this process's rows); every process must
        get the same number.
      config: model and loss.
      source_names: names of `decoder_source_ids`.
      mesh: device mesh.
      batch_size: rows of the global batch.
    """

    def __init__(
        self,
        batches: Callable[[], Iterable[Mapping[str, np.ndarray]]],
        config: StepConfig,
        source_names: Sequence[str],
        mesh: Mesh,
        batch_size: int,
    ):
        self._batches = batches
        self._source_names = source_names
        self._mesh, self._batch_size = mesh, batch_size
        self._config = config
        # Static rather than bound: to JAX, steps of equal configurations are one function.
        self._step = jax.jit(
            eval_step,
            static_argnames="config",
            compiler_options=base.compiler_options(config.model),
        )

    def __call__(self, params: Tree) -> dict[str, float]:
        total: dict[str, tuple[float, float]] = {}
        for local in self._batches():
            batch = sharding.to_global(local, self._mesh, self._batch_size)
            add(total, fetch(self._step(params, batch, config=self._config), self._source_names))
        return {f"validation/{name}": value for name, value in means(total).items()}
