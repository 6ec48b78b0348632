"""Attention with T5's conventions: no scaling, a learned bias by distance, masks from segment ids.

Who sees whom is given by segment ids (0 at padding) and a causal flag, never by a mask tensor, so that an
implementation builds only the part it needs:

    queries 1 1 2 2 0, keys 1 1 2 2 0        causal
              k:  1 1 2 2 0                   k:  1 1 2 2 0
        q 1       x x . . .             q 1       x . . . .
        q 1       x x . . .             q 1       x x . . .
        q 2       . . x x .             q 2       . . x . .
        q 2       . . x x .             q 2       . . x x .
        q 0       . . . . x             q 0       . . . . x     padding sees padding; nothing reads it

Axes: B batch, L query length, S key length, H heads, A head size, W = L + S - 1 distances.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from ul2tune.models import relative_bias

# NUMERICS: finite, so that a row that may see nothing (cross-attention of padding) averages its keys instead of being NaN.
MASKED = -1e30


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=["query_BL", "key_BS"],
    meta_fields=["causal", "packed"],
)
@dataclass(frozen=True, kw_only=True)
class Visibility:
    """Which keys a query sees: those of its own segment and, if causal, not to its right.

    Attributes:
      query_BL: segment id of each query, 0 at padding.
      key_BS: segment id of each key, 0 at padding.
      causal: whether queries see only keys at or before their own index.
      packed: False promises that ids are only 0 and 1 with all padding at the end.
    """

    query_BL: jax.Array
    key_BS: jax.Array
    causal: bool
    packed: bool

    def mask(self, first_key: Any = 0, num_keys: int | None = None) -> jax.Array:
        """Returns booleans [B, L, S] for keys ``first_key … first_key + num_keys`` (default: all)."""
        num_keys = self.key_BS.shape[1] if num_keys is None else num_keys
        key_BS = jax.lax.dynamic_slice_in_dim(self.key_BS, first_key, num_keys, axis=1)
        mask_BLS = self.query_BL[:, :, None] == key_BS[:, None, :]
        if self.causal:
            query_L = jnp.arange(self.query_BL.shape[1])
            key_S = first_key + jnp.arange(num_keys)
            mask_BLS &= (query_L[:, None] >= key_S[None])[None]
        return mask_BLS


def attend(
    query_BLHA: jax.Array,
    key_BSHA: jax.Array,
    value_BSHA: jax.Array,
    bias_HW: jax.Array | None,
    visibility: Visibility,
    *,
    implementation: str,
) -> jax.Array:
    """Returns ``softmax(q k^T + bias) v`` as [B, L, H, A].

    Attention dropout is the caller's: T5 drops a key for all queries at once, which is the same as scaling `value_BSHA`.

    Raises:
      ValueError: if `implementation` is unknown or does not support these inputs on this backend.
    """
    if implementation == "xla":
        return _xla(query_BLHA, key_BSHA, value_BSHA, bias_HW, visibility)
    raise ValueError(f"attention = {implementation!r} is not one of ('xla', 'chunked', 'cudnn').")


def _xla(query_BLHA, key_BSHA, value_BSHA, bias_HW, visibility: Visibility) -> jax.Array:
    logits_BHLS = jnp.einsum(
        "BLHA,BSHA->BHLS", query_BLHA, key_BSHA, preferred_element_type=jnp.float32
    )
    if bias_HW is not None:
        logits_BHLS += relative_bias.toeplitz(bias_HW, query_BLHA.shape[1])[None]
    logits_BHLS = jnp.where(visibility.mask()[:, None], logits_BHLS, MASKED)
    # NUMERICS: softmax in float32; the weights go back to the compute dtype for the second product.
    weights_BHLS = jax.nn.softmax(logits_BHLS, axis=-1).astype(value_BSHA.dtype)
    return jnp.einsum("BHLS,BSHA->BLHA", weights_BHLS, value_BSHA)
