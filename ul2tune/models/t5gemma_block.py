"""The stacks of a T5Gemma: Gemma's blocks, bidirectional or with the encoder's output to read.

Axes: B batch, P prompts (sources), L length, S source length, D model, N layers.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from ul2tune.models import layers
from ul2tune.models.attention import Implementation
from ul2tune.models.decoder import DecoderConfig
from ul2tune.models.decoder_block import Block, Layout
from ul2tune.models.folding import fold
from ul2tune.models.grouped_attention import GroupedQueryAttention
from ul2tune.models.layers import drop_channels, for_rows
from ul2tune.models.norms import Norm
from ul2tune.models.visibility import Visibility

# [B, L, D] -> [B, L, D]
Branch = Callable[[jax.Array], jax.Array]


class CrossBlock(Block):
    """A layer of the encoder or the decoder: Gemma's, with cross-attention between its branches
    where `source_d_model`, the width of what that reads, is given.

    Its head size, scale, bound and norms are those of self-attention; it knows no positions.
    """

    def __init__(self, config: DecoderConfig, key: jax.Array, source_d_model: int | None = None):
        keys = jax.random.split(key)
        super().__init__(config, keys[0])
        if source_d_model is not None:
            sizes = dataclasses.replace(config.heads, source_d_model=source_d_model)
            self.cross_attention = GroupedQueryAttention(sizes, keys[1])
            norm = config.norm, config.norm_eps, key
            self.cross_attention_norm = Norm(*norm, embed=config.d_model)
            self.cross_attention_post_norm = Norm(*norm, embed=config.d_model)

    def apply(
        self, x_BLD: jax.Array, attend: Branch, cross: Branch | None, keys: list[Any]
    ) -> jax.Array:
        """Returns the residual stream after this layer, [B, L, D].

        Args:
          x_BLD: the residual stream before it.
          attend: the branch of self- or merged attention.
          cross: that of cross-attention; None where there is none.
          keys: four dropout keys.
        """
        x_BLD = self.add(x_BLD, "attention", attend, keys[0])
        if cross is not None:
            x_BLD = self.add(x_BLD, "cross_attention", cross, keys[1])
        inner = self.config.dropout_rate, keys[2]
        return self.add(x_BLD, "mlp", lambda y_BLD: self.mlp(y_BLD, inner), keys[3])


class Stack(nnx.Module):
    """All layers of one side on a leading axis, and the final norm.

    Args:
      config: of the Gemma that the blocks are from.
      key: of the initialisers.
      right_window: how far local layers see to the right; None = as far as to the left.
      source_d_model: as in :class:`CrossBlock`.
    """

    def __init__(
        self,
        config: DecoderConfig,
        key: jax.Array,
        right_window: int | None = None,
        source_d_model: int | None = None,
    ):
        self.config, self.right_window = config, right_window
        self.has_cross = source_d_model is not None
        self.layers = layers.stack(
            lambda k: CrossBlock(config, k, source_d_model), config.num_layers, key
        )
        self.final_norm = Norm(config.norm, config.norm_eps, key, embed=config.d_model)

    def fold(self, step: Callable[..., Any], carry: Any, *per_layer: Any) -> Any:
        """Folds ``carry = step(carry, block, *per_layer[n])`` over the layers."""
        config, stacked = self.config, (self.layers, *per_layer)
        return fold(step, carry, stacked, scan=config.scan_layers, remat=config.remat)

    def within(self, seen: Visibility, layout: Layout, is_local: jax.Array) -> Visibility:
        """`seen` as a layer sees it."""
        left, right, length = self.config.sliding_window, self.right_window, seen.query_BL.shape[1]
        if left is None or min(left, right or left) >= length:
            return seen
        everything = jnp.iinfo(jnp.int32).max
        windows = (None if w is None else jnp.where(is_local, w, everything) for w in (left, right))
        return dataclasses.replace(seen, **dict(zip(("window", "right_window"), windows)))

    def __call__(
        self,
        x_BLD: jax.Array,
        positions_BL: jax.Array,
        seen: Visibility,
        key: jax.Array | None,
        source: tuple[jax.Array, Visibility | None] | None = None,
    ) -> jax.Array:
        """Embeddings in, final-normed states out, both [B, L, D].

        Args:
          x_BLD: scaled embeddings.
          positions_BL: of the tokens in their segments; B may be 1.
          seen: who sees whom, windows aside.
          key: turns dropout on.
          source: the encoder's output [P, S, D], and who sees what of it in cross-attention, see
            `visibility.crossing`. With None for the latter it is read in merged attention, and
            `seen` covers it, for every row.
        """
        config = self.config
        layout = Layout(config, positions_BL, x_BLD.shape[1])
        how = Implementation.of(config)
        rate = config.attention_dropout_rate
        first, inner, last = [None] * 3 if key is None else jax.random.split(key, 3)
        keys_N = None if inner is None else jax.random.split(inner, config.num_layers)

        def step(x_BLD: jax.Array, block: CrossBlock, is_local: jax.Array, key: Any) -> jax.Array:
            keys = [None] * 6 if key is None else list(jax.random.split(key, 6))
            rotation = layout.rotation(is_local)
            visibility, off = self.within(seen, layout, is_local), (rate, keys[4])
            crossing = (rate, keys[5])
            if source is None or source[1] is not None:

                def attend(y_BLD: jax.Array) -> jax.Array:
                    return block.attention(y_BLD, rotation, visibility, how, off)

            else:

                def attend(y_BLD: jax.Array) -> jax.Array:
                    own = block.attention.keys(y_BLD, rotation), block.attention.values(y_BLD, off)
                    assert source is not None
                    key_PSKA, value_PSKA = read(block.attention, source[0], crossing)
                    rows = y_BLD.shape[0]
                    others = for_rows(key_PSKA, rows), for_rows(value_PSKA, rows)
                    key_BSKA, value_BSKA = joined(own, others)
                    query_BLHA = block.attention.queries(y_BLD, rotation)
                    return block.attention.attend(query_BLHA, key_BSKA, value_BSKA, visibility, how)

            def cross(y_BLD: jax.Array) -> jax.Array:
                assert source is not None
                assert source[1] is not None
                attention, across = block.cross_attention, source[1]
                key_PSKA, value_PSKA = read(attention, source[0], crossing)
                query_PLHA = attention.queries(y_BLD.reshape(*across.query_BL.shape, -1), None)
                y_PLD = attention.attend(query_PLHA, key_PSKA, value_PSKA, across, how)
                return y_PLD.reshape(y_BLD.shape)

            return block.apply(x_BLD, attend, cross if self.has_cross else None, keys)

        x_BLD = drop_channels(x_BLD, (config.dropout_rate, first))
        x_BLD = self.fold(step, x_BLD, layout.is_local_N, keys_N)
        return drop_channels(self.final_norm(x_BLD), (config.dropout_rate, last))


def read(
    attention: GroupedQueryAttention, encoded_BSD: jax.Array, dropout: layers.Dropout = (0.0, None)
) -> tuple[jax.Array, jax.Array]:
    """Keys and values [B, S, K, A] of the encoder's output; not rotated."""
    return attention.keys(encoded_BSD, None), attention.values(encoded_BSD, dropout)


def joined(
    own: tuple[jax.Array, jax.Array], others: tuple[jax.Array, jax.Array], axis: int = 1
) -> tuple[jax.Array, jax.Array]:
    """Keys and values of merged attention, along their `axis` of positions: the decoder's own
    first."""
    key, value = (jnp.concatenate(pair, axis) for pair in zip(own, others))
    return key, value
