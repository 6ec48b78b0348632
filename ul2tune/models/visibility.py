"""Who sees whom: segment ids and a causal flag, never a mask tensor.

An attention implementation builds only the part of the mask it needs.

    queries 1 1 2 2 0, keys 1 1 2 2 0        causal
              k:  1 1 2 2 0                   k:  1 1 2 2 0
        q 1       x x . . .             q 1       x . . . .
        q 1       x x . . .             q 1       x x . . .
        q 2       . . x x .             q 2       . . x . .
        q 2       . . x x .             q 2       . . x x .
        q 0       . . . . x             q 0       . . . . x     (padding; nothing reads it)

    one segment of 5, causal

        prefix of 3                     window of 2               both
        q 0       x x x . .             q 0       x . . . .       x x . . .
        q 1       x x x . .             q 1       x x . . .       x x x . .
        q 2       x x x . .             q 2       . x x . .       . x x . .
        q 3       x x x x .             q 3       . . x x .       . . x x .
        q 4       x x x x x             q 4       . . . x x       . . . x x

In T5Gemma 2's merged attention the keys are those of two sequences, the decoder's own and behind
them the encoder's. Causality, prefix and window apply to the own ones, segments to both.

Axes: B batch, L query length, S key length; P sources, each read by B / P rows of targets.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp

from ul2tune.types import Batch

# NUMERICS: finite, so that the softmax of a query that sees no key (a target with empty inputs) is
# not NaN before its result is set to 0. The lowest number, so that no real logit lies below it.
MASKED = float(jnp.finfo(jnp.float32).min)


@jax.tree_util.register_dataclass
@dataclass(frozen=True, kw_only=True)
class Visibility:
    """Which keys a query sees: those of its own segment and, if causal, not to its right.

    A prefix exempts from causality, a window restricts on both sides. Both are for self-attention,
    where queries and keys are the same positions (L = S, or the first L of S with `own_keys`).

    Attributes:
      query_BL: segment id of each query, 0 at padding.
      key_BS: segment id of each key, 0 at padding.
      causal: whether queries see only keys at or before their own index.
      packed: False promises that ids are only 1 and, after them, 0.
      prefix_BL: 1 where attention is bidirectional although `causal`: such queries see such keys
        wherever they stand (SeqIO's `decoder_causal_attention`). None = nowhere.
      window: only keys less than so many positions away are seen; an integer, or an array [] that
        differs between layers. None = all.
      right_window: the same of keys to the right, where it is another. None = `window`.
      own_keys: how many keys, the first ones, are of the queries' sequence; those behind them are
        seen by segment alone. None = causality, prefix and window apply to all.
    """

    query_BL: jax.Array
    key_BS: jax.Array
    causal: bool = field(metadata={"static": True})
    packed: bool = field(metadata={"static": True})
    prefix_BL: jax.Array | None = None
    window: jax.Array | int | None = None
    right_window: jax.Array | int | None = None
    own_keys: int | None = field(default=None, metadata={"static": True})

    def mask(self, first_key: Any = 0, num_keys: int | None = None) -> jax.Array:
        """Returns booleans [B, L, S] for `num_keys` keys from `first_key` on (default: all)."""
        num_keys = self.key_BS.shape[1] if num_keys is None else num_keys
        key_BS = jax.lax.dynamic_slice_in_dim(self.key_BS, first_key, num_keys, axis=1)
        mask_BLS = self.query_BL[:, :, None] == key_BS[:, None, :]
        query_L = jnp.arange(self.query_BL.shape[1])
        index_S = first_key + jnp.arange(num_keys)
        distance_LS = query_L[:, None] - index_S[None]
        other_11S = self.own_keys is not None and (index_S >= self.own_keys)[None, None]
        if self.causal:
            seen_BLS = (distance_LS >= 0)[None]
            if self.prefix_BL is not None:
                prefix_BL = self.prefix_BL != 0
                # Padded, as the last chunk of keys may reach beyond the queries.
                padded_BS = jnp.pad(prefix_BL, ((0, 0), (0, num_keys)))
                prefix_BS = jax.lax.dynamic_slice_in_dim(padded_BS, first_key, num_keys, axis=1)
                seen_BLS = seen_BLS | (prefix_BL[:, :, None] & prefix_BS[:, None])
            mask_BLS &= seen_BLS | other_11S
        if self.window is not None:
            right = self.window if self.right_window is None else self.right_window
            near_LS = (distance_LS < self.window) & (-distance_LS < right)
            mask_BLS &= near_LS[None] | other_11S
        return mask_BLS


def crossing(target_BL: jax.Array, source_PS: jax.Array, *, packed: bool) -> Visibility:
    """Of cross-attention from segment ids: those of a target see those of its source.

    Row b of the targets reads row b // k of the sources, k = B / P. Queries know nothing of each
    other, so the k rows of one source are as one row of queries, [P, k * L], and its keys and
    values are there once. Sources 1 1 0 and 1 1 1, targets of 2, k = 2:

                k: 1 1 0                      k: 1 1 1
        q 1        x x .              q 1        x x x
        q 1        x x .      (b=0)   q 0        . . .      (b=2; padding)
        q 1        x x .              q 1        x x x
        q 0        . . x      (b=1)   q 1        x x x      (b=3)
    """
    assert target_BL.shape[0] % source_PS.shape[0] == 0, (target_BL.shape, source_PS.shape)
    alone = target_BL.shape[0] == source_PS.shape[0]
    query_PL = target_BL.reshape(source_PS.shape[0], -1)
    return Visibility(query_BL=query_PL, key_BS=source_PS, causal=False, packed=packed or not alone)


def segments(batch: Batch, side: str, tokens: str) -> jax.Array:
    """Returns segment ids [B, L]: the batch's own, or 1 where `tokens` are not padding.

    T5X decides the padding of the decoder by its *target* tokens: its inputs begin with 0.
    """
    packed = batch.get(f"{side}_segment_ids")
    return jnp.asarray(batch[tokens] != 0 if packed is None else packed, jnp.int32)
