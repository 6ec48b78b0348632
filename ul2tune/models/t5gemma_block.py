"""The stacks of a T5Gemma: Gemma's blocks, bidirectional or with the encoder's output to read.

Axes: B batch, P prompts (sources), L length, S source length, D model, N layers.
"""

from __future__ import annotations

import dataclasses
import functools
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from ul2tune.models import layers
from ul2tune.models.attention import Implementation
from ul2tune.models.decoder import DecoderConfig
from ul2tune.models.decoder_block import Block, DropoutKeys, LayerKinds
from ul2tune.models.folding import fold
from ul2tune.models.grouped_attention import GroupedQueryAttention
from ul2tune.models.layers import Dropout, drop_channels, split_key
from ul2tune.models.norms import Norm
from ul2tune.models.rotary import Rotation
from ul2tune.models.visibility import Visibility

OFF: Dropout = (0.0, None)


@dataclass(frozen=True, kw_only=True)
class Source:
    """What a decoder reads.

    Attributes:
      encoded_PSD: the encoder's output.
      across: who sees what of it in cross-attention, see `visibility.crossing`; None where it is
        read in merged attention: the stack's own visibility then has its keys too, for every row.
    """

    encoded_PSD: jax.Array
    across: Visibility | None


class CrossBlock(Block):
    """A layer of the encoder or the decoder: Gemma's, with cross-attention between its branches if
    `source_d_model`, the width of the encoder's output, is given.

    Head size, scale, bound and norms of cross-attention are those of self-attention; it knows no
    positions.
    """

    def __init__(self, config: DecoderConfig, key: jax.Array, source_d_model: int | None = None):
        keys = jax.random.split(key)
        super().__init__(config, keys[0])
        if source_d_model is not None:
            attention = dataclasses.replace(config.attention_config, source_d_model=source_d_model)
            self.cross_attention = GroupedQueryAttention(attention, keys[1])
            norm = config.norm, config.norm_eps, key
            self.cross_attention_norm = Norm(*norm, embed=config.d_model)
            self.cross_attention_post_norm = Norm(*norm, embed=config.d_model)

    def merged(
        self,
        y_BLD: jax.Array,
        encoded_PSD: jax.Array,
        rotation: Rotation | None,
        seen: Visibility,
        how: Implementation,
        dropouts: tuple[Dropout, Dropout] = (OFF, OFF),
    ) -> jax.Array:
        """The branch of merged attention, [B, L, D].

        Args:
          y_BLD: the normed stream.
          encoded_PSD: the encoder's output.
          rotation: of the stream's positions.
          seen: who sees whom, of the stream's keys and then of the encoder's.
          how: to compute it.
          dropouts: of attention weights on the stream's keys, and on the encoder's.
        """
        own, others = dropouts
        attention, rows = self.attention, y_BLD.shape[0]
        stream = attention.keys(y_BLD, rotation), attention.values(y_BLD, own)
        key_PSKA, value_PSKA = read(attention, encoded_PSD, others)
        source = for_rows(key_PSKA, rows), for_rows(value_PSKA, rows)
        key_BSKA, value_BSKA = joined(stream, source)
        query_BLHA = attention.queries(y_BLD, rotation)
        return attention.attend(query_BLHA, key_BSKA, value_BSKA, seen, how)

    def crossed(
        self,
        y_BLD: jax.Array,
        encoded_PSD: jax.Array,
        across: Visibility,
        how: Implementation,
        dropout: Dropout = OFF,
    ) -> jax.Array:
        """The branch of cross-attention, [B, L, D]; arguments as :meth:`merged`."""
        attention = self.cross_attention
        key_PSKA, value_PSKA = read(attention, encoded_PSD, dropout)
        query_PLHA = attention.queries(y_BLD.reshape(*across.query_BL.shape, -1), None)
        y_PLD = attention.attend(query_PLHA, key_PSKA, value_PSKA, across, how)
        return y_PLD.reshape(y_BLD.shape)


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
        self.layers = layers.stack(
            lambda k: CrossBlock(config, k, source_d_model), config.num_layers, key
        )
        self.final_norm = Norm(config.norm, config.norm_eps, key, embed=config.d_model)

    def __call__(
        self,
        x_BLD: jax.Array,
        positions_BL: jax.Array,
        seen: Visibility,
        key: jax.Array | None,
        source: Source | None = None,
    ) -> jax.Array:
        """Embeddings in, final-normed states out, both [B, L, D].

        Args:
          x_BLD: scaled embeddings.
          positions_BL: of the tokens in their segments; B may be 1.
          seen: who sees whom, windows aside.
          key: turns dropout on.
          source: what a decoder reads; None in the encoder.
        """
        config, how = self.config, Implementation.of(self.config)
        kinds = LayerKinds(config, positions_BL, x_BLD.shape[1], self.right_window)
        rate = config.attention_dropout_rate
        first, inner, last = split_key(key, 3)
        keys_N = None if inner is None else jax.random.split(inner, config.num_layers)

        def step(x_BLD: jax.Array, block: CrossBlock, is_local: jax.Array, key: Any) -> jax.Array:
            keys = DropoutKeys(*split_key(key, 6))
            own, others = (rate, keys.weights), (rate, keys.source_weights)
            rotation, visibility = kinds.rotation(is_local), kinds.within(seen, is_local)

            def attend(y_BLD: jax.Array) -> jax.Array:
                if source is not None and source.across is None:
                    encoded_PSD, dropouts = source.encoded_PSD, (own, others)
                    return block.merged(y_BLD, encoded_PSD, rotation, visibility, how, dropouts)
                return block.attention(y_BLD, rotation, visibility, how, own)

            if source is None or source.across is None:
                return block(x_BLD, attend, keys)
            crossed = functools.partial(
                block.crossed,
                encoded_PSD=source.encoded_PSD,
                across=source.across,
                how=how,
                dropout=others,
            )
            return block(x_BLD, attend, keys, crossed)

        x_BLD = drop_channels(x_BLD, (config.dropout_rate, first))
        x_BLD = fold(self, step, x_BLD, kinds.is_local_N, keys_N)
        return drop_channels(self.final_norm(x_BLD), (config.dropout_rate, last))


def for_rows(x_PS: jax.Array, num_rows: int) -> jax.Array:
    """Repeats each of P rows B / P times, side by side: row b is row b // k of what is given.

    Where the rows of both are split over the same devices, each repeats its own.
    """
    if num_rows == x_PS.shape[0]:
        return x_PS
    return jnp.repeat(x_PS, num_rows // x_PS.shape[0], axis=0)


def read(
    attention: GroupedQueryAttention, encoded_BSD: jax.Array, dropout: Dropout = OFF
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
