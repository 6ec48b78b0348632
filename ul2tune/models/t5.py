"""The T5 family by configuration: T5 1.0, T5 1.1, mT5, ByT5, umT5, UL2-20B.

An encoder and a decoder of pre-norm blocks, relative position biases instead of positions, no other
bias terms, one token embedding for both stacks (Raffel et al. 2020, arXiv:1910.10683; the changes
of 1.1 are in Shazeer 2020, arXiv:2002.05202). Reference: T5X `examples/t5/network.py`.

Axes: B batch, P prompts (sources), L target length, S source length, D model, H heads, A head size,
V vocabulary, N layers.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import nnx
from jax.nn.initializers import ones

from ul2tune.models import attention, config_checks, layers, relative_bias
from ul2tune.models.cache import DecodeCache, refuse_packed
from ul2tune.models.folding import fold, unstacked
from ul2tune.models.layers import Dropout, drop_channels, param, rms_norm, split_key
from ul2tune.models.visibility import Visibility, crossing, segments
from ul2tune.sharding import constrain
from ul2tune.types import Batch


@dataclass(frozen=True, kw_only=True)
class T5Config:
    """Shape and numerics of one T5. Fields have Hugging Face's names where T5Config has them there.

    Attributes:
      vocab_size: rows of the embedding; at least the vocabulary's ids, usually a multiple of 128.
      d_model: width of the residual stream.
      d_kv: size of one attention head.
      d_ff: width of the feed-forward block.
      num_heads: attention heads.
      num_encoder_layers: blocks of the encoder.
      num_decoder_layers: blocks of the decoder.
      activation: a key of `layers.ACTIVATIONS`: "relu" in T5 1.0, "gelu_gated" in T5 1.1.
      tied_logits: whether the token embedding is also the output head.
      scale_logits: whether logits are multiplied by ``d_model ** -0.5``, as T5 does when tied.
      relative_buckets: buckets of the relative position bias.
      relative_max_distance: distance from which on all share one bucket.
      per_layer_relative_bias: one table of biases per layer (umT5) instead of one per stack.
      dropout_rate: probability of dropping; applied only when a dropout key is given.
      layer_norm_eps: added to the mean square in every norm.
      dtype: "bfloat16" or "float32" activations and products; parameters are float32 either way.
      remat: what the backward pass computes again: "none", "dots" (all but products with weights;
        attention above all) or "full" (whole layers).
      scan_layers: one compiled block looped over the layers (compile time independent of depth), or
        all blocks inline (XLA schedules across them; about a tenth faster on CPU).
      attention: "xla", "chunked" (memory linear in length), "cudnn" (NVIDIA GPUs, bfloat16), or
        "auto": "cudnn" where it is supported (it takes half the time or less), else "xla".
      attention_chunk_tokens: keys per step of "chunked".
    """

    # How the feed lays out batches for this kind of model (FeedConfig.layout).
    LAYOUTS: ClassVar[tuple[str, ...]] = ("encoder_decoder",)

    vocab_size: int
    d_model: int
    d_kv: int
    d_ff: int
    num_heads: int
    num_encoder_layers: int
    num_decoder_layers: int
    activation: config_checks.Activation = "gelu_gated"
    tied_logits: bool = False
    scale_logits: bool = False
    relative_buckets: int = 32
    relative_max_distance: int = 128
    per_layer_relative_bias: bool = False
    dropout_rate: float = 0.0
    layer_norm_eps: float = 1e-6
    dtype: config_checks.Dtype = "bfloat16"
    remat: config_checks.Remat = "none"
    scan_layers: bool = True
    attention: config_checks.Attention = "auto"
    attention_chunk_tokens: int = 512

    def __post_init__(self):
        config_checks.check_choices(self)
        sizes = [field.name for field in dataclasses.fields(self) if field.type == "int"]
        config_checks.check_sizes(self, sizes)
        config_checks.check_positive(self, "layer_norm_eps")
        config_checks.check_rates(self, "dropout_rate")
        exact = self.relative_buckets // 4  # of the encoder, whose buckets are split by sign
        if self.relative_buckets % 4 or self.relative_max_distance <= 2 * exact:
            raise ValueError(
                f"T5Config.relative_buckets = {self.relative_buckets} must be a multiple of 4 and "
                f"less than twice relative_max_distance = {self.relative_max_distance}."
            )

    def check_row_lengths(self, encoder: int, decoder: int) -> None:
        """Rows may have any length: there are only relative positions."""

    def num_layers(self, *, decoder: bool) -> int:
        return self.num_decoder_layers if decoder else self.num_encoder_layers


def _bias_table(config: T5Config, key: jax.Array) -> nnx.Param:
    return relative_bias.table(config.num_heads, config.relative_buckets, key)


class Block(nnx.Module):
    """One layer: self-attention, in the decoder cross-attention, feed-forward; each pre-normed."""

    def __init__(self, config: T5Config, key: jax.Array, *, decoder: bool):
        self.config = config
        keys, d = jax.random.split(key, 4), config.d_model
        sizes = (d, config.num_heads, config.d_kv)
        self.self_attention_norm = param(ones, key, embed=d)
        self.self_attention = attention.MultiHeadAttention(*sizes, keys[0])
        if decoder:
            self.cross_attention_norm = param(ones, key, embed=d)
            self.cross_attention = attention.MultiHeadAttention(*sizes, keys[1])
        self.mlp_norm = param(ones, key, embed=d)
        self.mlp = layers.MLP(d, config.d_ff, config.activation, keys[2])
        if config.per_layer_relative_bias:
            self.relative_bias = _bias_table(config, keys[3])

    def add(
        self,
        x_BLD: jax.Array,
        norm: nnx.Param,
        branch: Callable[[jax.Array, Dropout], jax.Array],
        key: jax.Array | None = None,
    ) -> jax.Array:
        """Returns ``x + dropout(branch(norm(x)))``."""
        inner, outer = ((self.config.dropout_rate, k) for k in split_key(key, 2))
        y_BLD = branch(rms_norm(x_BLD, norm[...], self.config.layer_norm_eps), inner)
        return constrain(x_BLD + drop_channels(y_BLD, outer), "batch", "length", None)

    def __call__(
        self,
        x_BLD: jax.Array,
        bias: jax.Array,
        visibility: Visibility,
        key: jax.Array | None,
        cross: tuple[jax.Array, Visibility] | None,
    ) -> jax.Array:
        """Returns the residual stream after this layer, [B, L, D].

        Args:
          x_BLD: the residual stream before it.
          bias: of the self-attention, see `attention.attend`.
          visibility: of the self-attention.
          key: turns dropout on.
          cross: the encoder's output [P, S, D] and who sees what of it, see
            `visibility.crossing`; None in the encoder.
        """
        keys = split_key(key, 3)
        how = attention.Implementation.of(self.config)
        x_BLD = self.add(
            x_BLD,
            self.self_attention_norm,
            lambda y, dropout: self.self_attention(y, y, bias, visibility, how, dropout),
            keys[0],
        )
        if cross is not None:
            encoded_PSD, seen = cross

            def read(y_BLD: jax.Array, dropout: Dropout) -> jax.Array:
                y_PLD = y_BLD.reshape(*seen.query_BL.shape, -1)
                y_PLD = self.cross_attention(y_PLD, encoded_PSD, None, seen, how, dropout)
                return y_PLD.reshape(y_BLD.shape)

            x_BLD = self.add(x_BLD, self.cross_attention_norm, read, keys[1])
        return self.add(x_BLD, self.mlp_norm, self.mlp, keys[2])


class Stack(nnx.Module):
    """The encoder or the decoder: all its layers on a leading axis, and the final norm."""

    def __init__(self, config: T5Config, key: jax.Array, *, decoder: bool):
        self.config, self.decoder = config, decoder
        keys, num_layers = jax.random.split(key), config.num_layers(decoder=decoder)
        self.layers = layers.stack(lambda k: Block(config, k, decoder=decoder), num_layers, keys[0])
        self.final_norm = param(ones, key, embed=config.d_model)
        if not config.per_layer_relative_bias:
            self.relative_bias = _bias_table(config, keys[1])

    def bias_HW(self, block: Block | None, length: int) -> jax.Array:
        """The bias by distance of a block's self-attention over `length` positions; without a
        block, of those that share theirs."""
        owner: Any = block if self.config.per_layer_relative_bias else self
        return relative_bias.by_distance(
            owner.relative_bias[...],
            length,
            length,
            bidirectional=not self.decoder,
            max_distance=self.config.relative_max_distance,
        )

    def norm(self, x_BLD: jax.Array) -> jax.Array:
        return rms_norm(x_BLD, self.final_norm[...], self.config.layer_norm_eps)

    def __call__(
        self,
        x_BLD: jax.Array,
        visibility: Visibility,
        key: jax.Array | None,
        cross: tuple[jax.Array, Visibility] | None = None,
    ) -> jax.Array:
        """Embeddings in, final-normed states out, both [B, L, D]. `cross` as in :class:`Block`."""
        rate, (first, inner, last) = self.config.dropout_rate, split_key(key, 3)
        num_layers = self.config.num_layers(decoder=self.decoder)
        keys_N = None if inner is None else jax.random.split(inner, num_layers)
        queries, own = x_BLD.shape[:2], self.config.per_layer_relative_bias
        how = attention.Implementation.of(self.config)

        def spread(block: Block | None) -> jax.Array:
            return attention.spread(self.bias_HW(block, queries[1]), queries, how)

        shared = None if own else spread(None)

        def step(x_BLD: jax.Array, block: Block, key: jax.Array | None) -> jax.Array:
            bias = spread(block) if shared is None else shared
            return block(x_BLD, bias, visibility, key, cross)

        x_BLD = fold(self, step, drop_channels(x_BLD, (rate, first)), keys_N)
        return drop_channels(self.norm(x_BLD), (rate, last))


class T5(nnx.Module):
    """The model. Batches hold SeqIO's model features, see `ul2tune.types.Batch`."""

    # Families that cap their logits as ``cap * tanh(logits / cap)`` set it; T5 does not.
    logit_softcap: float | None = None

    def __init__(self, config: T5Config, key: jax.Array):
        self.config = config
        keys, rows, d = jax.random.split(key, 4), config.vocab_size, config.d_model
        self.token_embedding = param(layers.normal(1.0), keys[0], vocab=rows, embed=d)
        self.encoder = Stack(config, keys[1], decoder=False)
        self.decoder = Stack(config, keys[2], decoder=True)
        if not config.tied_logits:
            init = layers.truncated_normal(d**-0.5)
            self.head = param(init, keys[3], vocab=rows, embed=d)

    def encode(self, batch: Batch, *, dropout_key: jax.Array | None = None) -> jax.Array:
        """Returns the encoder's output [B, S, D]; meaningless where the input is padding."""
        source_BS = segments(batch, "encoder", "encoder_input_tokens")
        packed = "encoder_segment_ids" in batch
        seen = Visibility(query_BL=source_BS, key_BS=source_BS, causal=False, packed=packed)
        return self.encoder(self._embed(batch["encoder_input_tokens"]), seen, dropout_key)

    def hidden(self, batch: Batch, *, dropout_key: jax.Array | None = None) -> jax.Array:
        """Returns the decoder's output [B, L, D], such that ``logits = hidden @ head_kernel().T``.

        Teacher-forced: position i has read `decoder_input_tokens` up to and including i. It is
        meaningless where `decoder_target_tokens` are padding.

        Args:
          batch: model features, packed if they have segment ids. Those of the encoder may have a
            k-th of the decoder's rows, P = B / k: row b reads the source b // k, encoded once.
          dropout_key: turns dropout on.
        """
        encoder_key, decoder_key = split_key(dropout_key, 2)
        encoded_PSD = self.encode(batch, dropout_key=encoder_key)
        source_PS = segments(batch, "encoder", "encoder_input_tokens")
        target_BL = segments(batch, "decoder", "decoder_target_tokens")
        packed = "decoder_segment_ids" in batch
        seen = Visibility(query_BL=target_BL, key_BS=target_BL, causal=True, packed=packed)
        cross = crossing(target_BL, source_PS, packed=packed)
        x_BLD = self._embed(batch["decoder_input_tokens"])
        return self._scale(self.decoder(x_BLD, seen, decoder_key, (encoded_PSD, cross)))

    def head_kernel(self) -> jax.Array:
        """The output head, float32 [V, D]: the token embedding itself when tied."""
        return (self.token_embedding if self.config.tied_logits else self.head)[...]

    def logits(self, batch: Batch, *, dropout_key: jax.Array | None = None) -> jax.Array:
        """Returns float32 logits [B, L, V], an array that training never builds."""
        return self._logits(self.hidden(batch, dropout_key=dropout_key))

    def _embed(self, tokens_BL: Any) -> jax.Array:
        # T5 does not scale its embeddings.
        ids_BL = jnp.asarray(tokens_BL)
        x_BLD = layers.look_up(self.token_embedding[...], ids_BL).astype(self.config.dtype)
        return constrain(x_BLD, "batch", "length", None)

    def _scale(self, x_BLD: jax.Array) -> jax.Array:
        if not self.config.scale_logits:
            return x_BLD
        return layers.scale_down(x_BLD, self.config.d_model)

    def _logits(self, hidden_BLD: jax.Array) -> jax.Array:
        return layers.logits(hidden_BLD, self.head_kernel(), self.logit_softcap)

    def start_decoding(self, batch: Batch, *, max_decode_length: int) -> DecodeCache:
        """Runs the encoder, computes all cross-attention keys and values, and empties the cache.

        Raises:
          ValueError: for a packed batch.
        """
        refuse_packed(batch)
        cross, encoded_BSD = self.decoder.layers.cross_attention, self.encode(batch)
        cross_key, cross_value = (
            jnp.einsum("BSD,NDHA->NBHSA", encoded_BSD, kernel[...].astype(encoded_BSD.dtype))
            for kernel in (cross.key, cross.value)
        )
        source_PS = segments(batch, "encoder", "encoder_input_tokens")
        return DecodeCache.start(cross_key, cross_value, source_PS, max_decode_length)

    def unstacked(self) -> T5:
        """This model as a loop over tokens reads it."""
        return unstacked(self, "decoder/layers")

    def decode_step(
        self, cache: DecodeCache, tokens_B: jax.Array, index: jax.Array | int
    ) -> tuple[jax.Array, DecodeCache]:
        """Feeds one token per row and predicts the next.

        Args:
          cache: of :meth:`start_decoding` or the previous step.
          tokens_B: the decoder's input at position `index`; T5 starts with padding (0).
          index: the position, one for all rows, below `max_decode_length`.

        Returns:
          Float32 logits [B, V] of the target at `index`, and the cache with this position in it.
        """
        length = cache.self_key.shape[3]
        past_BLS = (jnp.arange(length) <= index)[None, None]
        source_PLS = (cache.source_PS != 0)[:, None]

        def step(carry: Any, block: Block, n: jax.Array) -> Any:
            x_BLD, cache = carry

            def self_attention(y_BLD: jax.Array, _: Dropout) -> jax.Array:
                nonlocal cache
                layer = block.self_attention
                # The whole cache is carried and updated in place; as per-layer outputs of the scan
                # it would be copied for every token.
                cache = cache.append(
                    n, index, layer.heads(y_BLD, layer.key), layer.heads(y_BLD, layer.value)
                )
                # Entry w is for key index - query index = w - length + 1.
                bias_HW = self.decoder.bias_HW(block, length)
                bias_HS = jax.lax.dynamic_slice_in_dim(bias_HW, length - 1 - index, length, 1)
                past = cache.self_key[n], cache.self_value[n], bias_HS[None, :, None], past_BLS
                return layer.attend_cached(y_BLD, *past)

            def cross_attention(y_BLD: jax.Array, _: Dropout) -> jax.Array:
                layer = block.cross_attention
                source = cache.cross_key[n], cache.cross_value[n], None, source_PLS
                # Beams of a prompt read it together, as positions of one row.
                y_PLD = y_BLD.reshape(len(source_PLS), -1, y_BLD.shape[2])
                return layer.attend_cached(y_PLD, *source).reshape(y_BLD.shape)

            x_BLD = block.add(x_BLD, block.self_attention_norm, self_attention)
            x_BLD = block.add(x_BLD, block.cross_attention_norm, cross_attention)
            return block.add(x_BLD, block.mlp_norm, block.mlp), cache

        layer_N = jnp.arange(self.config.num_decoder_layers)
        x_BLD, cache = fold(self.decoder, step, (self._embed(tokens_B[:, None]), cache), layer_N)
        return self._logits(self._scale(self.decoder.norm(x_BLD)))[:, 0], cache
