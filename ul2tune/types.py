"""The names every layer shares: what a batch is, and the small protocols that break cycles.

Axis legend (used in every file of the package): ``B`` batch, ``L`` query/target length, ``S``
key/source length, ``D`` model, ``F`` mlp, ``H`` heads, ``K`` kv heads, ``A`` head size, ``V``
vocabulary, ``N`` layers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import jax
import numpy as np

Array = jax.Array | np.ndarray
# One batch of model features under SeqIO's names, every array [B, length]. Encoder-decoder batches
# hold `encoder_input_tokens`, `decoder_input_tokens`, `decoder_target_tokens`,
# `decoder_loss_weights`; packed ones add `{encoder,decoder}_segment_ids` (1, 2, … and 0 at padding)
# and `{encoder,decoder}_positions`; prefix-LM ones have `decoder_causal_attention` (1 where
# attention is bidirectional). `decoder_source_ids` (0 = none) says which task/denoiser a target
# position came from, for per-source losses. When several targets of one source are scored, the
# encoder's features have one row per source, the decoder's one per target.
Batch = Mapping[str, Array]
# A nested dict of arrays. Parameters, gradients and optimiser state travel as plain pytrees, never
# as modules.
Tree = Any


@dataclass(frozen=True, kw_only=True)
class HookContext:
    """What a hook may read after a step.

    Attributes:
      step: number of optimiser steps done.
      params: the full parameter tree (trainable and frozen merged), sharded over `mesh`.
      model: the model configuration that built `params`.
      mesh: the device mesh.
      model_dir: the run's directory.
    """

    step: int
    params: Tree
    model: Any
    mesh: jax.sharding.Mesh
    model_dir: str


class Hook(Protocol):
    """Called by the training loop every `period_steps` steps and after the last one.

    A hook may have methods `check_vocabulary`, `check_model` and `check_model_dir`: they are called
    before the first step, with the vocabulary of the data, the model's configuration and the run's
    directory, and may raise.
    """

    period_steps: int

    def __call__(self, context: HookContext) -> Mapping[str, float]:
        """Returns scalars to log, keyed by metric name."""
        ...


# Returns initial parameters in the shardings of the given tree of `jax.ShapeDtypeStruct`.
# The run donates these arrays: they must be fresh, and no array may stand in two places.
# It may have a method `check_source`: `ul2tune train` calls it in one process, before it prepares
# data for a run that begins. It raises ValueError or OSError where there is nothing to read.
InitFn = Callable[[Tree], Tree]
