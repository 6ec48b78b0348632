"""An encoder-decoder out of decoder-only models: how T5Gemma began (Zhang et al. 2025,
arXiv:2504.06225, section 3).

    encoder           the decoder-only model; it now sees to the right too
    decoder           the decoder-only model, self-attention and feed-forward
    cross-attention   balanced: the decoder's self-attention, with its norms
                      unbalanced (the widths differ): new; to be trained alone for the first 1000
                      steps, which is a matter of `OptimizerConfig.groups`
    merged attention  the decoder's self-attention (T5Gemma 2, arXiv:2512.14856)

Axis legend: V vocabulary rows, D model.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import jax
import jax.numpy as jnp

from ul2tune import tree
from ul2tune.checkpoints import initialize
from ul2tune.models import base
from ul2tune.models.t5gemma import SIDES, T5GemmaConfig
from ul2tune.types import Tree

log = logging.getLogger(__name__)
CROSS_ATTENTION = ("auto", "copy", "new")
_EMBEDDINGS = {"encoder": "token_embedding", "decoder": "decoder_token_embedding"}
_EOI = {"encoder": "eoi_embedding", "decoder": "decoder_eoi_embedding"}
_CROSS = "layers/cross_attention"


@dataclass(frozen=True, kw_only=True)
class FromDecoderOnly:
    """An `InitFn` that starts a T5Gemma from checkpoints of decoder-only models (Gemma 2 or 3).

    Data, optimiser and step counter start fresh.

    Attributes:
      model: what is to be trained; `T5GemmaConfig.gemma` says what its stacks can come from.
      encoder_path: checkpoint of the encoder's model: a MODEL_DIR, as `ul2tune import hf` writes
        it, or one step's folder.
      decoder_path: that of the decoder's; None = the same.
      cross_attention: "copy" of the decoder's self-attention, "new" (drawn), or "auto": a copy if
        encoder and decoder are of one width. Merged attention has no such parameters.
      seed: of what is drawn.

    Raises:
      ValueError: on a `cross_attention` that is unknown, impossible or ignored.
    """

    model: T5GemmaConfig
    encoder_path: str
    decoder_path: str | None = None
    cross_attention: Annotated[str, CROSS_ATTENTION] = "auto"
    seed: int = 0

    def __post_init__(self) -> None:
        value = self.cross_attention
        if value not in CROSS_ATTENTION:
            raise ValueError(f"cross_attention = {value!r} is not one of {CROSS_ATTENTION}.")
        if self.model.merged_attention and value != "auto":
            raise ValueError(
                f"cross_attention = {value!r} does nothing with merged_attention; leave it 'auto'."
            )
        if value == "copy" and not self._balanced:
            raise ValueError(
                f"cross_attention = 'copy' needs encoder and decoder of one d_model, not "
                f"{self.model.encoder.d_model} and {self.model.decoder.d_model}; use 'new'."
            )

    @property
    def _balanced(self) -> bool:
        return self.model.encoder.d_model == self.model.decoder.d_model

    @property
    def _copies(self) -> bool:
        return self.cross_attention == "copy" or (self.cross_attention == "auto" and self._balanced)

    def __call__(self, abstract: Tree) -> Tree:
        """The parameters, in the shardings of `abstract`.

        Raises:
          ValueError: if there is no checkpoint, or not one of such a model.
          CorruptCheckpointError: if a checkpoint is damaged.
        """
        wanted = tree.flatten(abstract)
        params: dict[str, jax.Array] = {}
        for side in SIDES:
            origins = {path: self._origin(path, side) for path in wanted}
            own = {path: origin for path, origin in origins.items() if origin is not None}
            params |= _placed(self._load(side, own, wanted), own, wanted)
        params |= self._eoi_embeddings(params, wanted)
        drawn = {path: wanted[path] for path in wanted.keys() - params.keys()}
        if drawn:
            log.info("New parameters: %s.", ", ".join(sorted(drawn)))
            params |= self._draw(drawn)
        return tree.unflatten({path: params[path] for path in wanted})

    @property
    def _paths(self) -> tuple[str, str]:
        other = self.encoder_path if self.decoder_path is None else self.decoder_path
        return self.encoder_path, other

    @functools.cached_property
    def step_dirs(self) -> tuple[Path, Path]:
        """What it reads, found once: the encoder's checkpoint and the decoder's."""
        encoder, decoder = map(initialize.resolve, self._paths)
        return encoder, decoder

    def check_source(self) -> None:
        """As `types.InitFn` says."""
        for path in self._paths:
            initialize.find(path)

    def __str__(self) -> str:
        """For the table at the start of a run."""
        encoder, decoder = map(initialize.in_words, self._paths, self.step_dirs)
        return f"{encoder} (encoder), {decoder} (decoder)"

    def _origin(self, path: str, side: str) -> str | None:
        """Which parameter of a side's decoder-only model becomes `path`; None = none does."""
        if path == _EMBEDDINGS[side]:
            return "token_embedding"
        if path == "head" and side == "decoder":
            return "head"
        prefix = f"{side}/"
        if not path.startswith(prefix):
            return None
        inner = path.removeprefix(prefix)
        if inner.startswith(_CROSS):
            return inner.replace(_CROSS, "layers/attention", 1) if self._copies else None
        return inner

    def _load(
        self, side: str, own: Mapping[str, str], wanted: Mapping[str, jax.ShapeDtypeStruct]
    ) -> Mapping[str, jax.Array]:
        """Reads a side's decoder-only model, all of it: what is left over must be known."""
        gemma = self.model.gemma(side)
        shapes = tree.flatten(base.abstract_params(gemma))
        shardings = {origin: wanted[path].sharding for path, origin in own.items()}
        # A table or head that this side leaves to the other.
        other = wanted["token_embedding"].sharding
        structs = {
            path: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=shardings.get(path, other))
            for path, leaf in shapes.items()
        }
        step_dir = self.step_dirs[SIDES.index(side)]
        # Encoders see as far to the right as to the left, or half as far: windows are not the same.
        ignored = ("sliding_window", "max_length") if side == "encoder" else ("max_length",)
        loaded = initialize.load_params(step_dir, tree.unflatten(structs))
        initialize.warn_of_other_model(step_dir, gemma, ignored)
        return tree.flatten(loaded)

    def _eoi_embeddings(
        self, params: Mapping[str, jax.Array], wanted: Mapping[str, jax.ShapeDtypeStruct]
    ) -> dict[str, jax.Array]:
        """In Gemma 3 the end of an image has a row of the table: it keeps that embedding."""
        if self.model.eoi_id is None:
            return {}
        found = {}
        for side in SIDES:
            name, scaled_row = _EOI[side], functools.partial(_scaled_row, row=self.model.eoi_id)
            if name in wanted:
                pick = jax.jit(scaled_row, out_shardings=wanted[name].sharding)
                found[name] = pick(params[_EMBEDDINGS[side]])
        return found

    def _draw(self, drawn: Mapping[str, jax.ShapeDtypeStruct]) -> Mapping[str, jax.Array]:
        """Initial values of these parameters; nothing else is computed."""

        def draw() -> dict[str, jax.Array]:
            fresh = tree.flatten(base.init_params(self.model, jax.random.key(self.seed)))
            return {path: fresh[path] for path in drawn}

        shardings = {path: leaf.sharding for path, leaf in drawn.items()}
        return jax.jit(draw, out_shardings=shardings)()


def _scaled_row(table_VD: jax.Array, row: int) -> jax.Array:
    return table_VD[row] * table_VD.shape[1] ** 0.5


def _placed(
    loaded: Mapping[str, jax.Array],
    own: Mapping[str, str],
    wanted: Mapping[str, jax.ShapeDtypeStruct],
) -> dict[str, jax.Array]:
    """Arrays by their new path; those with two places are copied, for they will differ."""
    placed: dict[str, jax.Array] = {}
    used: set[str] = set()
    for path, origin in own.items():
        value = loaded[origin]
        if origin in used:
            value = jax.jit(jnp.copy, out_shardings=wanted[path].sharding)(value)
        used.add(origin)
        placed[path] = value
    return placed
