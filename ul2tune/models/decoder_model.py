"""What the decoder-only families share: one residual stream over one sequence.

Causal, or bidirectional over a prefix (UL2R, Tay et al. 2022, arXiv:2210.11399, continues decoders
as prefix-LMs). Batches are SeqIO's language-model features (`data.convert.causal_lm`, `prefix_lm`):
position i reads `decoder_input_tokens[i]`, the start token or token i - 1 of its document, and
predicts token i. Where `decoder_causal_attention` is there and 1, attention is bidirectional.

Axes: B batch, L length, S slots of the cache, D model, E embedding, V vocabulary, N layers,
H heads, W distances.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from ul2tune.models import decoder_features, layers, relative_bias
from ul2tune.models.attention import Implementation, spread
from ul2tune.models.cache import AXES, PromptCache
from ul2tune.models.decoder import DecoderConfig
from ul2tune.models.decoder_block import Block, LayerKinds
from ul2tune.models.folding import fold, unstacked
from ul2tune.models.layers import drop_channels, param, split_key
from ul2tune.models.linear import linear
from ul2tune.models.norms import Norm
from ul2tune.sharding import constrain
from ul2tune.types import Batch

# Rows of the table of learned positions before that of position 0 (OPT, from fairseq's padding id).
POSITION_OFFSET = 2
# Prompts are padded to multiples of this; some kernels refuse odd lengths.
PROMPT_MULTIPLE = 8


class Decoder(nnx.Module):
    """The model. Batches hold SeqIO's model features, see `ul2tune.types.Batch`."""

    def __init__(self, config: DecoderConfig, key: jax.Array):
        self.config, self.logit_softcap = config, config.logit_softcap
        d, e = config.d_model, config.embedding_dim or config.d_model
        keys = jax.random.split(key, 6)
        relative = config.relative_buckets is not None
        # T5's embeddings have unit variance.
        init = layers.normal(1.0 if relative else e**-0.5)
        self.token_embedding = param(init, keys[0], vocab=config.vocab_size, embed=e)
        if config.embedding_dim is not None:
            projection = layers.normal(e**-0.5)
            self.project_in = param(projection, keys[1], projection=e, embed=d)
            self.project_out = param(layers.normal(d**-0.5), keys[2], embed=d, projection=e)
        if config.learned_positions:
            rows = config.max_length + POSITION_OFFSET
            self.position_embedding = param(init, keys[3], positions=rows, embed=d)
        if config.relative_buckets is not None:
            sizes = config.num_heads, config.relative_buckets
            self.relative_bias = relative_bias.table(*sizes, keys[3])
        self.layers = layers.stack(lambda k: Block(config, k), config.num_layers, keys[4])
        if config.final_norm:
            self.final_norm = Norm(config.norm, config.norm_eps, key, embed=d)
        if not config.tied_logits:
            head = layers.truncated_normal(e**-0.5) if relative else init
            self.head = param(head, keys[5], vocab=config.vocab_size, embed=e)

    def hidden(self, batch: Batch, *, dropout_key: jax.Array | None = None) -> jax.Array:
        """Returns final states [B, L, E], such that ``logits = hidden @ head_kernel().T`` before
        they are capped (`logit_softcap`).

        Teacher-forced: position i has read `decoder_input_tokens` up to and including i, and the
        whole prefix if it is in it. Meaningless where `decoder_target_tokens` are padding.

        Args:
          batch: `decoder_input_tokens`, packed if there are `decoder_segment_ids`; other features
            than these, `decoder_positions` and `decoder_causal_attention` are not read.
          dropout_key: turns dropout on.

        Raises:
          ValueError: if rows are longer than the model's `max_length`.
        """
        tokens_BL = jnp.asarray(batch["decoder_input_tokens"])
        config, length = self.config, tokens_BL.shape[1]
        self.config.check_row_lengths(length)
        positions_BL, seen = decoder_features.positions(batch), decoder_features.visibility(batch)
        kinds, how = LayerKinds(config, positions_BL, length), Implementation.of(self.config)
        bias, is_t5 = self._bias(tokens_BL.shape), config.relative_buckets is not None
        dropped = config.dropout_rate
        rate = dropped if is_t5 else config.attention_dropout_rate

        def step(x_BLD: jax.Array, block: Block, is_local: jax.Array, key: Any) -> jax.Array:
            keys = block.dropout_keys(key)
            rotation = kinds.rotation(is_local)
            visibility = kinds.within(seen, is_local)

            def attend(y_BLD: jax.Array) -> jax.Array:
                return block.attention(y_BLD, rotation, visibility, how, (rate, keys.weights), bias)

            return block(x_BLD, attend, keys)

        inner, first, last = dropout_key, None, None
        if is_t5:  # T5 drops from the embeddings and the final states too
            inner, first, last = split_key(dropout_key, 3)
        keys_N = None if inner is None else jax.random.split(inner, config.num_layers)
        x_BLD = drop_channels(self._embed(tokens_BL, positions_BL), (dropped, first))
        x_BLD = fold(self, step, x_BLD, kinds.is_local_N, keys_N)
        return drop_channels(self._finish(x_BLD), (dropped, last))

    def head_kernel(self) -> jax.Array:
        """The output head, float32 [V, E]: the token embedding itself when tied."""
        return (self.token_embedding if self.config.tied_logits else self.head)[...]

    def logits(self, batch: Batch, *, dropout_key: jax.Array | None = None) -> jax.Array:
        """Returns float32 logits [B, L, V], an array that training never builds."""
        return self._logits(self.hidden(batch, dropout_key=dropout_key))

    def start_decoding(self, batch: Batch, *, max_decode_length: int) -> PromptCache:
        """Reads all prompts in one pass and leaves room for what is to be decoded.

        Args:
          batch: prompts of any lengths as :meth:`hidden` reads them, one per row: the start token,
            the prompt, padding. `decoder_segment_ids` are 1 where they are real (without them: up
            to the last token that is not 0). With `decoder_causal_attention` prompts are prefixes.
          max_decode_length: steps to come.

        Raises:
          ValueError: if prompt and continuation together can exceed the model's `max_length`.
        """
        tokens_BL = jnp.asarray(batch["decoder_input_tokens"])
        self.config.check_row_lengths(tokens_BL.shape[1] - 1 + max_decode_length)
        real_BL = decoder_features.real(batch)
        lengths_B = jnp.maximum(jnp.sum(real_BL, axis=1) - 1, 0)
        extra = ((0, 0), (0, -tokens_BL.shape[1] % PROMPT_MULTIPLE))
        prompt = {"decoder_input_tokens": jnp.pad(tokens_BL, extra)}
        if "decoder_causal_attention" in batch:
            prefix_BL = jnp.asarray(batch["decoder_causal_attention"])
            prompt["decoder_causal_attention"] = jnp.pad(prefix_BL, extra)
        cache = self._prefill(prompt, max_decode_length)
        last_B = jnp.take_along_axis(tokens_BL, lengths_B[:, None], axis=1)[:, 0]
        return dataclasses.replace(cache, lengths_B=lengths_B, last_B=last_B)

    def unstacked(self) -> Decoder:
        """This model as a loop over tokens reads it."""
        return unstacked(self, "layers")

    def decode_step(
        self, cache: PromptCache, tokens_B: jax.Array, index: jax.Array | int
    ) -> tuple[jax.Array, PromptCache]:
        """Feeds one token per row and predicts the next.

        Args:
          cache: of :meth:`start_decoding` or the previous step.
          tokens_B: what the previous step's logits became. Step 0 reads the end of the prompt
            instead.
          index: the step, one for all rows, below `max_decode_length`.

        Returns:
          Float32 logits [B, V] of the next token, and the cache with this one in it.
        """
        tokens_B1 = jnp.where(index == 0, cache.last_B, tokens_B)[:, None]
        positions_B1 = cache.lengths_B[:, None] + index
        kinds = LayerKinds(self.config, positions_B1, cache.num_slots)
        distance_BS = cache.distances(index)
        bias_BH1S = self._bias_of_slots(distance_BS)

        def step(carry: Any, block: Block, is_local: jax.Array, n: jax.Array) -> Any:
            x_B1D, cache = carry
            rotation, window = kinds.rotation(is_local), kinds.window(is_local)
            seen_BS = distance_BS >= 0
            if window is not None:
                seen_BS &= distance_BS < window

            def attend(y_B1D: jax.Array) -> jax.Array:
                nonlocal cache
                attention = block.attention
                # The whole cache is carried and updated in place; as per-layer outputs of the scan
                # it would be copied for every token.
                kv = attention.keys(y_B1D, rotation), attention.values(y_B1D)
                cache = cache.write(n, cache.prompt_slots + index, *kv)
                past = cache.key[n], cache.value[n], seen_BS[:, None], bias_BH1S
                return attention.attend_cached(attention.queries(y_B1D, rotation), *past)

            return block(x_B1D, attend), cache

        start = self._embed(tokens_B1, positions_B1), cache
        numbers_N = jnp.arange(self.config.num_layers)
        x_B1D, cache = fold(self, step, start, kinds.is_local_N, numbers_N)
        return self._logits(self._finish(x_B1D))[:, 0], cache

    def _prefill(self, prompt: Batch, max_decode_length: int) -> PromptCache:
        """A cache with all keys and values of the prompts."""
        tokens_BL = jnp.asarray(prompt["decoder_input_tokens"])
        (batch, length), config = tokens_BL.shape, self.config
        positions_BL, seen = decoder_features.positions(prompt), decoder_features.visibility(prompt)
        kinds, how = LayerKinds(config, positions_BL, length), Implementation.of(self.config)
        bias = self._bias((batch, length))
        slots = length + max_decode_length
        shape = (config.num_layers, batch, config.num_kv_heads, slots, config.head_dim)
        empty = constrain(jnp.zeros(shape, config.dtype), *AXES)
        zeros_B = jnp.zeros(batch, jnp.int32)
        cache = PromptCache(
            key=empty, value=empty, lengths_B=zeros_B, last_B=zeros_B, prompt_slots=length
        )

        def step(carry: Any, block: Block, is_local: jax.Array, n: jax.Array) -> Any:
            x_BLD, cache = carry
            rotation = kinds.rotation(is_local)
            visibility = kinds.within(seen, is_local)

            def attend(y_BLD: jax.Array) -> jax.Array:
                nonlocal cache
                attention = block.attention
                kv = attention.keys(y_BLD, rotation), attention.values(y_BLD)
                cache = cache.write(n, 0, *kv)
                query_BLHA = attention.queries(y_BLD, rotation)
                return attention.attend(query_BLHA, *kv, visibility, how, bias)

            return block(x_BLD, attend), cache

        start = self._embed(tokens_BL, positions_BL), cache
        numbers_N = jnp.arange(config.num_layers)
        return fold(self, step, start, kinds.is_local_N, numbers_N)[1]

    def _bias(self, queries: tuple[int, ...]) -> jax.Array | None:
        """The relative position bias of all layers as attention reads it, for queries [B, L]; None
        where there is none.

        Causal also in a prefix: what is to the right shares the bucket of distance 0, as in T5X.
        """
        if self.config.relative_max_distance is None:
            return None
        length, max_distance = queries[1], self.config.relative_max_distance
        bias_HW = self._bias_by_distance(length, length, max_distance)
        return spread(bias_HW, queries, Implementation.of(self.config))

    def _bias_of_slots(self, distance_BS: jax.Array) -> jax.Array | None:
        """The same for one query and the slots of a cache, which lie `distance_BS` behind it,
        [B, H, 1, S]; slots that are empty have some value, which the mask hides."""
        if self.config.relative_max_distance is None:
            return None
        slots = distance_BS.shape[1]
        # Entry w is that of a key slots - 1 - w behind.
        bias_HW = self._bias_by_distance(slots, 1, self.config.relative_max_distance)
        bias_HBS = bias_HW[:, slots - 1 - jnp.maximum(distance_BS, 0)]
        return jnp.swapaxes(bias_HBS, 0, 1)[:, :, None]

    def _bias_by_distance(self, queries: int, keys: int, max_distance: int) -> jax.Array:
        return relative_bias.by_distance(
            self.relative_bias[...], queries, keys, bidirectional=False, max_distance=max_distance
        )

    def _embed(self, tokens_BL: jax.Array, positions_BL: jax.Array) -> jax.Array:
        config = self.config
        start_BL = (tokens_BL == 0) & (positions_BL == 0)
        tokens_BL = jnp.where(start_BL, config.start_id, tokens_BL)
        x_BLD = layers.look_up(self.token_embedding[...], tokens_BL).astype(config.dtype)
        if config.scale_embeddings:
            # NUMERICS: the factor is rounded to the compute dtype, as Gemma was trained.
            x_BLD *= jnp.asarray(config.d_model**0.5, config.dtype)
        if config.embedding_dim is not None:
            x_BLD = linear(x_BLD, self.project_in[...], 1)
        if config.learned_positions:
            table_PD, numbers_BL = self.position_embedding[...], positions_BL + POSITION_OFFSET
            x_BLD += layers.look_up(table_PD, numbers_BL, "positions").astype(config.dtype)
        return constrain(x_BLD, "batch", "length", None)

    def _finish(self, x_BLD: jax.Array) -> jax.Array:
        """From the residual stream to :meth:`hidden`'s result."""
        if self.config.final_norm:
            x_BLD = self.final_norm(x_BLD)
        if self.config.embedding_dim is not None:
            x_BLD = linear(x_BLD, self.project_out[...], 1)
        if self.config.scale_logits:
            x_BLD = layers.scale_down(x_BLD, self.config.d_model)
        return x_BLD

    def _logits(self, hidden_BLE: jax.Array) -> jax.Array:
        return layers.logits(hidden_BLE, self.head_kernel(), self.logit_softcap)
