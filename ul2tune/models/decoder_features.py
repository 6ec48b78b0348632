"""SeqIO's language-model features as the model reads them: positions, visibility, prompts.

    packed row of two documents, prefix-LM    prompts of 3 and 1 tokens

    decoder_input_tokens      0 7 8 5 3 0 4 9 0      0 7 8 5 0 0
    decoder_segment_ids       1 1 1 1 1 2 2 2 0      1 1 1 1 0 0
    decoder_positions         0 1 2 3 4 0 1 2 0      0 1 2 3 0 0
    decoder_causal_attention  1 1 1 1 0 1 1 0 0      1 1 1 1 0 0

Axes: B batch, L length.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from ul2tune.models.visibility import Visibility
from ul2tune.types import Batch


def real(batch: Batch) -> jax.Array:
    """Where prompts are, boolean [B, L]: without segment ids up to the last token that is not 0."""
    if "decoder_segment_ids" in batch:
        return jnp.asarray(batch["decoder_segment_ids"]) != 0
    tokens_BL = jnp.asarray(batch["decoder_input_tokens"])
    later_BL = jnp.cumsum((tokens_BL != 0)[:, ::-1], axis=1)[:, ::-1] > 0
    return later_BL.at[:, 0].set(True)


def positions(batch: Batch, side: str = "decoder") -> jax.Array:
    """Positions in their documents [B, L] (B = 1 where no row is packed)."""
    if f"{side}_positions" in batch:
        return jnp.asarray(batch[f"{side}_positions"])
    index_BL = jnp.arange(batch[f"{side}_input_tokens"].shape[1])[None]
    if f"{side}_segment_ids" not in batch:
        return index_BL
    ids_BL = jnp.asarray(batch[f"{side}_segment_ids"])
    starts_BL = jnp.diff(ids_BL, axis=1, prepend=0) != 0
    first_BL = jax.lax.cummax(jnp.where(starts_BL, index_BL, 0), axis=1)
    return index_BL - first_BL


def visibility(batch: Batch) -> Visibility:
    """Who sees whom, windows aside. Padding is to the right of all else: causality hides it."""
    ids = batch.get("decoder_segment_ids")
    ids_BL = jnp.asarray(
        jnp.ones(batch["decoder_input_tokens"].shape, jnp.int32) if ids is None else ids
    )
    prefix = batch.get("decoder_causal_attention")
    return Visibility(
        query_BL=ids_BL,
        key_BS=ids_BL,
        causal=True,
        packed=ids is not None,
        prefix_BL=None if prefix is None else jnp.asarray(prefix),
    )
