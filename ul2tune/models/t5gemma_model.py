"""An encoder-decoder of Gemma's blocks. Batches hold SeqIO's features of an encoder-decoder.

Merged attention (T5Gemma 2), one softmax per query of the decoder over both sequences:

    keys            its own, rotated, causal, windowed  |  the encoder's output's, by segment alone
    no parameters of its own: queries, keys, values and output are those of self-attention

Axes: B batch, P prompts (sources), L target length, S source length, K key/value heads, A head
size, D model, V vocabulary, N layers.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.nn.initializers import zeros

from ul2tune.models import decoder_features, layers
from ul2tune.models.cache import DecodeCache, refuse_packed
from ul2tune.models.decoder_block import LayerKinds
from ul2tune.models.folding import fold, unstacked
from ul2tune.models.layers import param, split_key
from ul2tune.models.linear import swap
from ul2tune.models.t5gemma import T5GemmaConfig
from ul2tune.models.t5gemma_block import CrossBlock, Source, Stack, for_rows, joined, read
from ul2tune.models.visibility import Visibility, crossing, segments
from ul2tune.sharding import constrain
from ul2tune.types import Batch


class T5Gemma(nnx.Module):
    """The model. Batches hold SeqIO's model features, see `ul2tune.types.Batch`.

    Parameters: `token_embedding` [V, D] is the encoder's, or both stacks';
    `decoder_token_embedding` where they are apart; `head` where logits are not tied;
    `eoi_embedding` and `decoder_eoi_embedding` [D] likewise, where there is such a token.
    """

    def __init__(self, config: T5GemmaConfig, key: jax.Array):
        self.config, self.logit_softcap = config, config.logit_softcap
        encoder, decoder = config.gemma("encoder"), config.gemma("decoder")
        keys, rows = jax.random.split(key, 5), config.vocab_size
        width, target_width = encoder.d_model, decoder.d_model
        self.token_embedding = param(layers.normal(width**-0.5), keys[0], vocab=rows, embed=width)
        init = layers.normal(target_width**-0.5)
        if not config.tied_embeddings:
            self.decoder_token_embedding = param(init, keys[1], vocab=rows, embed=target_width)
        if not config.tied_logits:
            self.head = param(init, keys[2], vocab=rows, embed=target_width)
        if config.eoi_id is not None:
            self.eoi_embedding = param(zeros, key, embed=width)
            if not config.tied_embeddings:
                self.decoder_eoi_embedding = param(zeros, key, embed=target_width)
        self.encoder = Stack(encoder, keys[3], right_window=config.encoder.right_window)
        source_d_model = None if config.merged_attention else width
        self.decoder = Stack(decoder, keys[4], source_d_model=source_d_model)

    def encode(self, batch: Batch, *, dropout_key: jax.Array | None = None) -> jax.Array:
        """Returns the encoder's output [B, S, D]; meaningless where the input is padding.

        Raises:
          ValueError: if rows are longer than the encoder's `max_length`.
        """
        tokens_BS = jnp.asarray(batch["encoder_input_tokens"])
        self.config.check_row_lengths(encoder=tokens_BS.shape[1])
        source_BS = segments(batch, "encoder", "encoder_input_tokens")
        packed = "encoder_segment_ids" in batch
        seen = Visibility(query_BL=source_BS, key_BS=source_BS, causal=False, packed=packed)
        positions_BS = decoder_features.positions(batch, "encoder")
        return self.encoder(self._embed("encoder", tokens_BS), positions_BS, seen, dropout_key)

    def hidden(self, batch: Batch, *, dropout_key: jax.Array | None = None) -> jax.Array:
        """Returns the decoder's output [B, L, D], such that ``logits = hidden @ head_kernel().T``
        before they are capped (`logit_softcap`).

        Teacher-forced: position i has read `decoder_input_tokens` up to and including i. It is
        meaningless where `decoder_target_tokens` are padding.

        Args:
          batch: model features, packed if they have segment ids. Those of the encoder may have a
            k-th of the decoder's rows, P = B / k: row b reads the source b // k, encoded once.
          dropout_key: turns dropout on.

        Raises:
          ValueError: if rows are longer than the `max_length` of their stack.
        """
        encoder_key, decoder_key = split_key(dropout_key, 2)
        encoded_PSD = self.encode(batch, dropout_key=encoder_key)
        tokens_BL = jnp.asarray(batch["decoder_input_tokens"])
        self.config.check_row_lengths(decoder=tokens_BL.shape[1])
        source_PS = segments(batch, "encoder", "encoder_input_tokens")
        target_BL = segments(batch, "decoder", "decoder_target_tokens")
        packed, merged = "decoder_segment_ids" in batch, self.config.merged_attention
        keys_BS = target_BL, for_rows(source_PS, target_BL.shape[0])
        seen = Visibility(
            query_BL=target_BL,
            key_BS=jnp.concatenate(keys_BS, axis=1) if merged else target_BL,
            causal=True,
            packed=packed,
            own_keys=tokens_BL.shape[1] if merged else None,
        )
        positions_BL = decoder_features.positions(batch)
        x_BLD = self._embed("decoder", self._started(tokens_BL, positions_BL))
        across = None if merged else crossing(target_BL, source_PS, packed=packed)
        source = Source(encoded_PSD=encoded_PSD, across=across)
        return self.decoder(x_BLD, positions_BL, seen, decoder_key, source)

    def head_kernel(self) -> jax.Array:
        """The output head, float32 [V, D]: the decoder's token embedding itself when tied."""
        return (self._table("decoder") if self.config.tied_logits else self.head)[...]

    def logits(self, batch: Batch, *, dropout_key: jax.Array | None = None) -> jax.Array:
        """Returns float32 logits [B, L, V], an array that training never builds."""
        return self._logits(self.hidden(batch, dropout_key=dropout_key))

    def start_decoding(self, batch: Batch, *, max_decode_length: int) -> DecodeCache:
        """Runs the encoder, computes all keys and values of its output, and empties the cache.

        Raises:
          ValueError: for a packed batch, or lengths beyond the model's.
        """
        refuse_packed(batch)
        self.config.check_row_lengths(decoder=max_decode_length)
        encoded_BSD = self.encode(batch)

        def of_layer(block: CrossBlock) -> tuple[jax.Array, jax.Array]:
            key_BSKA, value_BSKA = read(self._reader(block), encoded_BSD)
            return swap(key_BSKA), swap(value_BSKA)

        cross_key, cross_value = jax.lax.map(of_layer, self.decoder.layers)
        source_PS = segments(batch, "encoder", "encoder_input_tokens")
        return DecodeCache.start(cross_key, cross_value, source_PS, max_decode_length)

    def unstacked(self) -> T5Gemma:
        """This model as a loop over tokens reads it."""
        return unstacked(self, "decoder/layers")

    def decode_step(
        self, cache: DecodeCache, tokens_B: jax.Array, index: jax.Array | int
    ) -> tuple[jax.Array, DecodeCache]:
        """Feeds one token per row and predicts the next.

        Args:
          cache: of :meth:`start_decoding` or the previous step.
          tokens_B: the decoder's input at position `index`; 0 starts.
          index: the position, one for all rows, below `max_decode_length`.

        Returns:
          Float32 logits [B, V] of the target at `index`, and the cache with this position in it.
        """
        positions_11 = jnp.full((1, 1), index)
        rows, length = tokens_B.shape[0], cache.self_key.shape[3]
        kinds = LayerKinds(self.decoder.config, positions_11, length)
        distance_L = index - jnp.arange(length)
        source_PLS = (cache.source_PS != 0)[:, None]

        def step(carry: Any, block: CrossBlock, is_local: jax.Array, n: jax.Array) -> Any:
            x_BLD, cache = carry
            rotation, window = kinds.rotation(is_local), kinds.window(is_local)
            seen_L = distance_L >= 0
            if window is not None:
                seen_L &= distance_L < window
            seen_BLS = jnp.broadcast_to(seen_L, (rows, 1, length))
            source = cache.cross_key[n], cache.cross_value[n]

            def attend(y_BLD: jax.Array) -> jax.Array:
                nonlocal cache
                attention = block.attention
                # The whole cache is carried and updated in place; as per-layer outputs of the scan
                # it would be copied for every token.
                kv = attention.keys(y_BLD, rotation), attention.values(y_BLD)
                cache = cache.append(n, index, *kv)
                past, mask_BLS = (cache.self_key[n], cache.self_value[n]), seen_BLS
                if self.config.merged_attention:
                    # Beams share their prompt's keys in the cache. Here each needs them beside its
                    # own, so they are repeated, for one layer at a time.
                    key, value, source_BLS = (for_rows(x, rows) for x in (*source, source_PLS))
                    past = joined(past, (key, value), axis=2)
                    mask_BLS = jnp.concatenate([seen_BLS, source_BLS], axis=2)
                return attention.attend_cached(attention.queries(y_BLD, rotation), *past, mask_BLS)

            def cross(y_BLD: jax.Array) -> jax.Array:
                attention = block.cross_attention
                # Beams of a prompt read it together, as positions of one row.
                y_PLD = y_BLD.reshape(len(source_PLS), -1, y_BLD.shape[2])
                query_PLHA = attention.queries(y_PLD, None)
                y_PLD = attention.attend_cached(query_PLHA, *source, source_PLS)
                return y_PLD.reshape(y_BLD.shape)

            with_cross = None if self.config.merged_attention else cross
            return block(x_BLD, attend, cross=with_cross), cache

        x_BLD = self._embed("decoder", self._started(tokens_B[:, None], positions_11))
        numbers_N = jnp.arange(self.decoder.config.num_layers)
        x_BLD, cache = fold(self.decoder, step, (x_BLD, cache), kinds.is_local_N, numbers_N)
        return self._logits(self.decoder.final_norm(x_BLD))[:, 0], cache

    def _reader(self, block: CrossBlock) -> Any:
        """The block of the decoder that reads the encoder's output."""
        return block.attention if self.config.merged_attention else block.cross_attention

    def _has_own_embeddings(self, side: str) -> bool:
        return side == "decoder" and not self.config.tied_embeddings

    def _table(self, side: str) -> nnx.Param:
        own = self._has_own_embeddings(side)
        return self.decoder_token_embedding if own else self.token_embedding

    def _started(self, tokens_BL: jax.Array, positions_BL: jax.Array) -> jax.Array:
        """SeqIO starts every segment with 0, this model with its own token."""
        is_start_BL = (tokens_BL == 0) & (positions_BL == 0)
        return jnp.where(is_start_BL, self.config.start_id, tokens_BL)

    def _embed(self, side: str, tokens_BL: jax.Array) -> jax.Array:
        config, table_VD = self.config, self._table(side)[...]
        # NUMERICS: the factor is rounded to the compute dtype, as Gemma was trained.
        scale = jnp.asarray(table_VD.shape[1] ** 0.5, config.dtype)
        x_BLD = layers.look_up(table_VD, tokens_BL).astype(config.dtype) * scale
        if config.eoi_id is not None:
            own = self._has_own_embeddings(side)
            eoi_D = (self.decoder_eoi_embedding if own else self.eoi_embedding)[...]
            eoi_11D = eoi_D.astype(config.dtype)[None, None]
            is_eoi_BL1 = (tokens_BL == config.eoi_id)[..., None]
            x_BLD = jnp.where(is_eoi_BL1, eoi_11D, x_BLD)
        return constrain(x_BLD, "batch", "length", None)

    def _logits(self, hidden_BLD: jax.Array) -> jax.Array:
        return layers.logits(hidden_BLD, self.head_kernel(), self.logit_softcap)
