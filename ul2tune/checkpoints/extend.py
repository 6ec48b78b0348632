"""Starting from a checkpoint whose vocabulary is smaller: new embedding rows from the mean.

Axis legend: V vocabulary rows, D model.
"""

from __future__ import annotations

import functools
import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from ul2tune.checkpoints import initialize, layout
from ul2tune.types import Tree

log = logging.getLogger(__name__)
# Input embedding and output head of every model of `ul2tune.models`: [V, D].
VOCABULARY_PARAMETERS = r"((decoder_)?token_embedding|head)"


@dataclass(frozen=True, kw_only=True)
class SmallerVocabulary(initialize.OneCheckpoint):
    """An `InitFn` that starts a run from a checkpoint with fewer, or fewer real, embedding rows.

    The first `real_rows` rows are the checkpoint's. All others become their mean, in the input
    embedding and in the output head: those the checkpoint does not have, and those it has without
    ever having trained them (T5 rounds 32,100 ids up to 32,128 rows, and added tokens may lie
    there). Everything else is restored as it is. Like `InitialCheckpoint` in what starts fresh.

    Attributes:
      real_rows: number of ids of the vocabulary that the checkpoint was trained with.
      parameters: regular expression for the paths of the parameters whose first axis is V.
    """

    real_rows: int
    parameters: str = VOCABULARY_PARAMETERS

    def __post_init__(self) -> None:
        if self.real_rows < 1:
            raise ValueError(f"real_rows must be positive, got {self.real_rows}.")

    def __str__(self) -> str:
        """For the table at the start of a run."""
        checkpoint = initialize.in_words(self.path, self.step_dir)
        counting = "" if self.keep_step else ", counting from 0"
        return f"{checkpoint}, its first {self.real_rows:,} embedding rows{counting}"

    def __call__(self, abstract: Tree) -> Tree:
        """The parameters, in the shardings of `abstract`.

        Raises:
          ValueError: if the checkpoint has fewer than `real_rows` rows or more rows than the model,
            has no such parameter, or does not fit otherwise.
        """
        flat, saved = layout.flatten(abstract), layout.read_meta(self.step_dir)["leaves"]
        stored = dict(flat)
        found = [path for path in flat if re.fullmatch(self.parameters, path)]
        if not found:
            raise ValueError(
                f"The model has no parameter that matches {self.parameters!r}; its parameters are "
                f"{sorted(flat)[:8]}."
            )
        for path in found:
            stored[path] = self._stored(path, flat[path], saved)
        params = layout.flatten(
            initialize.load_params(self.step_dir, layout.unflatten(stored, abstract))
        )
        for path in found:
            params[path] = _grow(params[path], flat[path], self.real_rows)
        grown = {path: (stored[path].shape[0], flat[path].shape[0]) for path in found}
        log.info("Rows from %d on start as the mean of those before: %s.", self.real_rows, grown)
        return layout.unflatten(params, abstract)

    def _stored(
        self, path: str, wanted: jax.ShapeDtypeStruct, saved: Mapping[str, Any]
    ) -> jax.ShapeDtypeStruct:
        """What the checkpoint holds under `path`: as wanted, but for the number of rows."""
        key = f"{initialize.PARAMS}/{path}"
        if key not in saved:
            return wanted  # reading it says what is missing
        rows = saved[key][0][0]
        if not self.real_rows <= rows <= wanted.shape[0]:
            raise ValueError(
                f"{self.path} holds {rows} rows of {path!r}, the model has {wanted.shape[0]} and "
                f"real_rows is {self.real_rows}. Use real_rows <= the checkpoint's rows <= the "
                f"model's vocab_size."
            )
        shape = (rows, *wanted.shape[1:])
        sharding = wanted.sharding
        try:
            sharding.shard_shape(shape)
        except ValueError:  # rows that do not divide among the devices are read by all of them
            assert isinstance(sharding, jax.sharding.NamedSharding), sharding
            sharding = jax.sharding.NamedSharding(sharding.mesh, jax.sharding.PartitionSpec())
        return jax.ShapeDtypeStruct(shape, wanted.dtype, sharding=sharding)


def from_smaller_vocabulary(path: str, real_rows: int, keep_step: bool = True) -> SmallerVocabulary:
    """For `INITIAL_CHECKPOINT_PATH` in gin/runs/extend.gin; see :class:`SmallerVocabulary`."""
    return SmallerVocabulary(path=path, real_rows=real_rows, keep_step=keep_step)


def _grow(stored_VD: jax.Array, wanted: jax.ShapeDtypeStruct, real_rows: int) -> jax.Array:
    @functools.partial(jax.jit, out_shardings=wanted.sharding)
    def grow(old_VD: jax.Array) -> jax.Array:
        real_VD = old_VD[:real_rows]
        # NUMERICS: the mean of many rows is taken in float32 whatever they are stored in.
        mean_D = jnp.mean(real_VD, axis=0, dtype=jnp.float32).astype(old_VD.dtype)
        new_VD = jnp.broadcast_to(mean_D[None], (wanted.shape[0] - real_rows, *wanted.shape[1:]))
        return jnp.concatenate([real_VD, new_VD])

    return grow(stored_VD)
