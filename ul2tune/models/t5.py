"""The T5 family by configuration: T5 1.0, T5 1.1, mT5, ByT5, umT5, UL2-20B.

An encoder and a decoder of pre-norm blocks, relative position biases instead of positions, no biases elsewhere, one
token embedding for both stacks (Raffel et al. 2020, arXiv:1910.10683; the 1.1 changes are Shazeer 2020, arXiv:2002.05202).

Axes: B batch, L target length, S source length, D model, F mlp, H heads, A head size, V vocabulary, N layers.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from ul2tune.models import relative_bias
from ul2tune.models.attention import MASKED, Visibility, attend
from ul2tune.models.layers import (
    ACTIVATIONS,
    MLP,
    dropout,
    dropout_mask,
    normal,
    ones,
    param,
    rms_norm,
    stack,
    truncated_normal,
    uniform,
)
from ul2tune.sharding import constrain
from ul2tune.types import Batch

REMAT = {
    "none": None,
    "full": jax.checkpoint_policies.nothing_saveable,
    "dots": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
}
ATTENTION = ("xla", "chunked", "cudnn")


@dataclass(frozen=True, kw_only=True)
class T5Config:
    """Shape and numerics of one T5. Fields carry the names of Hugging Face's T5Config where it has them.

    Attributes:
      vocab_size: rows of the embedding table; at least the vocabulary's size, usually padded to a multiple of 128.
      d_model: width of the residual stream.
      d_kv: size of one attention head.
      d_ff: width of the feed-forward block.
      num_heads: attention heads per block.
      num_encoder_layers: encoder blocks.
      num_decoder_layers: decoder blocks.
      activation: a key of `layers.ACTIVATIONS`; "relu" in T5 1.0, "gelu_gated" in T5 1.1, "silu_gated" in UL2-20B.
      tied_logits: whether the token embedding is also the output head.
      scale_logits: whether logits are multiplied by ``d_model ** -0.5``, as T5 does when tied.
      relative_buckets: buckets of the relative position bias.
      relative_max_distance: distance from which on all share one bucket.
      per_layer_relative_bias: one bias table per layer (umT5) instead of one per stack.
      dropout_rate: probability of dropping; only applied when a dropout key is given.
      layer_norm_eps: added to the mean square in every norm.
      dtype: "float32" or "bfloat16" activations and products; parameters are float32 in either case.
      remat: what the backward pass recomputes per layer: "none", "dots" (all but weight products) or "full".
      scan_layers: one compiled block looped over all layers (compile time independent of depth), or all blocks inline.
      attention: "xla", "chunked" (memory linear in length) or "cudnn" (NVIDIA GPUs, bfloat16).
      attention_chunk_tokens: keys per step of "chunked".
    """

    vocab_size: int
    d_model: int
    d_kv: int
    d_ff: int
    num_heads: int
    num_encoder_layers: int
    num_decoder_layers: int
    activation: str = "gelu_gated"
    tied_logits: bool = False
    scale_logits: bool = False
    relative_buckets: int = 32
    relative_max_distance: int = 128
    per_layer_relative_bias: bool = False
    dropout_rate: float = 0.0
    layer_norm_eps: float = 1e-6
    dtype: str = "bfloat16"
    remat: str = "none"
    scan_layers: bool = True
    attention: str = "xla"
    attention_chunk_tokens: int = 512

    def __post_init__(self):
        choices = {
            "activation": tuple(ACTIVATIONS),
            "dtype": ("float32", "bfloat16"),
            "remat": tuple(REMAT),
            "attention": ATTENTION,
        }
        for name, allowed in choices.items():
            if getattr(self, name) not in allowed:
                raise ValueError(
                    f"T5Config.{name} = {getattr(self, name)!r} is not one of {allowed}."
                )
        if not 0.0 <= self.dropout_rate < 1.0:
            raise ValueError(f"T5Config.dropout_rate = {self.dropout_rate} must be in [0, 1).")

    def make(self, key: jax.Array) -> T5:
        """Returns the initialised model."""
        return T5(self, key)


def _split(key: jax.Array | None, num: int) -> list[Any]:
    """Splits a dropout key; no key stays no key."""
    return [None] * num if key is None else list(jax.random.split(key, num))


class Attention(nnx.Module):
    """Multi-head attention. Scales are Mesh-TF's: the usual 1/sqrt(d_kv) sits in the query's initialisation."""

    def __init__(self, config: T5Config, key: jax.Array):
        self.config = config
        d, h, a = config.d_model, config.num_heads, config.d_kv
        keys = jax.random.split(key, 4)
        self.query = param(normal((d * a) ** -0.5), keys[0], embed=d, heads=h, kv=a)
        self.key = param(normal(d**-0.5), keys[1], embed=d, heads=h, kv=a)
        self.value = param(normal(d**-0.5), keys[2], embed=d, heads=h, kv=a)
        self.out = param(normal((h * a) ** -0.5), keys[3], heads=h, kv=a, embed=d)

    def heads(self, x_BLD: jax.Array, kernel: nnx.Param) -> jax.Array:
        """Projects to [B, L, H, A]."""
        y_BLHA = jnp.einsum("BLD,DHA->BLHA", x_BLD, kernel[...].astype(x_BLD.dtype))
        return constrain(y_BLHA, "batch", "length", "heads", "kv")

    def merge_heads(self, x_BLHA: jax.Array) -> jax.Array:
        """Projects back to [B, L, D]."""
        return jnp.einsum("BLHA,HAD->BLD", x_BLHA, self.out[...].astype(x_BLHA.dtype))

    def __call__(
        self,
        x_BLD: jax.Array,
        source_BSD: jax.Array,
        bias_HW: jax.Array | None,
        visibility: Visibility,
        key: jax.Array | None,
    ) -> jax.Array:
        """Attends from `x_BLD` to `source_BSD` and returns [B, L, D]."""
        query_BLHA = self.heads(x_BLD, self.query)
        key_BSHA = self.heads(source_BSD, self.key)
        value_BSHA = self.heads(source_BSD, self.value)
        if key is not None and self.config.dropout_rate > 0:
            # T5X drops attention weights with one mask [B, H, 1, S] for all queries: the same as scaling the values.
            shape = (*value_BSHA.shape[:3], 1)
            mask_BSH1 = dropout_mask(self.config.dropout_rate, key, shape)
            value_BSHA = (value_BSHA.astype(jnp.float32) * mask_BSH1).astype(value_BSHA.dtype)
        out_BLHA = attend(
            query_BLHA,
            key_BSHA,
            value_BSHA,
            bias_HW,
            visibility,
            implementation=self.config.attention,
        )
        return self.merge_heads(out_BLHA)


def _bias_table(config: T5Config, key: jax.Array) -> nnx.Param:
    limit = (6 / (config.num_heads + config.relative_buckets)) ** 0.5
    return param(
        uniform(limit), key, heads=config.num_heads, relpos_buckets=config.relative_buckets
    )


class Block(nnx.Module):
    """One layer of either stack: self-attention, cross-attention in the decoder, feed-forward, each pre-normed."""

    def __init__(self, config: T5Config, key: jax.Array, *, cross: bool):
        self.config = config
        keys = jax.random.split(key, 4)
        d = config.d_model
        self.self_attention_norm = param(ones, key, embed=d)
        self.self_attention = Attention(config, keys[0])
        if cross:
            self.cross_attention_norm = param(ones, key, embed=d)
            self.cross_attention = Attention(config, keys[1])
        self.mlp_norm = param(ones, key, embed=d)
        self.mlp = MLP(d, config.d_ff, config.activation, keys[2])
        if config.per_layer_relative_bias:
            self.relative_bias = _bias_table(config, keys[3])

    def norm(self, x_BLD: jax.Array, scale: nnx.Param) -> jax.Array:
        return rms_norm(x_BLD, scale[...], self.config.layer_norm_eps, x_BLD.dtype)

    def feed_forward(self, x_BLD: jax.Array, keys: list[Any]) -> jax.Array:
        rate = self.config.dropout_rate
        y_BLD = self.mlp(self.norm(x_BLD, self.mlp_norm), rate, keys[0])
        return constrain(x_BLD + dropout(y_BLD, rate, keys[1]), "batch", "length", None)

    def __call__(
        self,
        x_BLD: jax.Array,
        bias_HW: jax.Array,
        visibility: Visibility,
        key: jax.Array | None,
        encoded_BSD: jax.Array | None = None,
        cross_visibility: Visibility | None = None,
    ) -> jax.Array:
        """Returns the residual stream after this layer, [B, L, D]."""
        rate, keys = self.config.dropout_rate, _split(key, 6)
        y_BLD = self.norm(x_BLD, self.self_attention_norm)
        y_BLD = self.self_attention(y_BLD, y_BLD, bias_HW, visibility, keys[0])
        x_BLD = constrain(x_BLD + dropout(y_BLD, rate, keys[1]), "batch", "length", None)
        if encoded_BSD is not None:
            assert cross_visibility is not None
            y_BLD = self.norm(x_BLD, self.cross_attention_norm)
            y_BLD = self.cross_attention(y_BLD, encoded_BSD, None, cross_visibility, keys[2])
            x_BLD = constrain(x_BLD + dropout(y_BLD, rate, keys[3]), "batch", "length", None)
        return self.feed_forward(x_BLD, keys[4:])


class Stack(nnx.Module):
    """All layers of the encoder or the decoder, stacked on a leading axis, with the bias table and the final norm."""

    def __init__(self, config: T5Config, key: jax.Array, *, decoder: bool):
        self.config, self.decoder = config, decoder
        keys = jax.random.split(key)
        num_layers = config.num_decoder_layers if decoder else config.num_encoder_layers
        self.layers = stack(lambda key: Block(config, key, cross=decoder), num_layers, keys[0])
        self.final_norm = param(ones, key, embed=config.d_model)
        if not config.per_layer_relative_bias:
            self.relative_bias = _bias_table(config, keys[1])

    def bias_HW(self, block: Block, length: int) -> jax.Array:
        """The bias by distance that a block adds to its self-attention, float32 [H, 2 L - 1]."""
        owner = block if self.config.per_layer_relative_bias else self
        return relative_bias.by_distance(
            owner.relative_bias[...],
            length,
            length,
            bidirectional=not self.decoder,
            max_distance=self.config.relative_max_distance,
        )

    def run(self, step: Callable[..., Any], carry: Any, per_layer: Any) -> Any:
        """Folds ``carry = step(carry, block, per_layer[n])`` over the layers, scanned or inline, with remat."""
        policy = REMAT[self.config.remat]
        if policy is not None:
            step = jax.checkpoint(step, policy=policy, prevent_cse=not self.config.scan_layers)
        if self.config.scan_layers:
            xs = (self.layers, per_layer)
            return jax.lax.scan(lambda c, x: (step(c, *x), None), carry, xs)[0]
        for n in range(self.final_norm_index()):
            carry = step(carry, *jax.tree.map(lambda x: x[n], (self.layers, per_layer)))
        return carry

    def final_norm_index(self) -> int:
        config = self.config
        return config.num_decoder_layers if self.decoder else config.num_encoder_layers

    def __call__(
        self,
        x_BLD: jax.Array,
        visibility: Visibility,
        key: jax.Array | None,
        encoded_BSD: jax.Array | None = None,
        cross_visibility: Visibility | None = None,
    ) -> jax.Array:
        """Embeddings in, final-normed states out, both [B, L, D]."""
        rate, (first, rest, last) = self.config.dropout_rate, _split(key, 3)
        keys_N = None if rest is None else jax.random.split(rest, self.final_norm_index())
        length = x_BLD.shape[1]

        def step(x_BLD, block: Block, key):
            bias_HW = self.bias_HW(block, length)
            return block(x_BLD, bias_HW, visibility, key, encoded_BSD, cross_visibility)

        x_BLD = self.run(step, dropout(x_BLD, rate, first), keys_N)
        x_BLD = rms_norm(x_BLD, self.final_norm[...], self.config.layer_norm_eps, x_BLD.dtype)
        return dropout(x_BLD, rate, last)


@jax.tree_util.register_dataclass
@dataclass(frozen=True, kw_only=True)
class DecodeCache:
    """What one decoding step needs of the past; a pytree.

    Attributes:
      self_key: [N, B, L, H, A], keys of the positions decoded so far, zeros after them.
      self_value: [N, B, L, H, A].
      cross_key: [N, B, S, H, A], computed once from the encoder's output.
      cross_value: [N, B, S, H, A].
      source_BS: 1 at real source tokens, 0 at padding.
    """

    self_key: jax.Array
    self_value: jax.Array
    cross_key: jax.Array
    cross_value: jax.Array
    source_BS: jax.Array


def _segments(batch: Batch, side: str, tokens: str) -> jax.Array:
    """Segment ids [B, L]; an unpacked row is one segment that ends where its tokens do."""
    packed = batch.get(f"{side}_segment_ids")
    return jnp.asarray(batch[tokens] != 0, jnp.int32) if packed is None else jnp.asarray(packed)


class T5(nnx.Module):
    """The model. Takes batches under SeqIO's names (see `ul2tune.types.Batch`)."""

    # T5 has none; families that cap their logits as ``cap * tanh(logits / cap)`` set it.
    logit_softcap: float | None = None

    def __init__(self, config: T5Config, key: jax.Array):
        self.config = config
        keys = jax.random.split(key, 4)
        v, d = config.vocab_size, config.d_model
        self.token_embedding = param(normal(1.0), keys[0], vocab=v, embed=d)
        self.encoder = Stack(config, keys[1], decoder=False)
        self.decoder = Stack(config, keys[2], decoder=True)
        if not config.tied_logits:
            self.head = param(truncated_normal(d**-0.5), keys[3], vocab=v, embed=d)

    @property
    def dtype(self) -> Any:
        return jnp.dtype(self.config.dtype)

    def embed(self, tokens_BL: jax.Array) -> jax.Array:
        """Token embeddings [B, L, D], unscaled, in the compute dtype."""
        x_BLD = self.token_embedding[...][tokens_BL].astype(self.dtype)
        return constrain(x_BLD, "batch", "length", None)

    def encode(self, batch: Batch, *, dropout_key: jax.Array | None = None) -> jax.Array:
        """Returns the encoder's final-normed states [B, S, D]. Meaningless where `encoder_input_tokens` is 0."""
        segments_BS = _segments(batch, "encoder", "encoder_input_tokens")
        visibility = Visibility(
            query_BL=segments_BS,
            key_BS=segments_BS,
            causal=False,
            packed="encoder_segment_ids" in batch,
        )
        x_BSD = self.embed(jnp.asarray(batch["encoder_input_tokens"]))
        return self.encoder(x_BSD, visibility, dropout_key)

    def hidden(self, batch: Batch, *, dropout_key: jax.Array | None = None) -> jax.Array:
        """Returns the decoder's output [B, L, D], such that ``logits = hidden @ head_kernel().T``.

        Teacher-forced: position i has read `decoder_input_tokens` up to and including i. Which positions are real is
        decided by `decoder_target_tokens` (or the segment ids), because inputs begin with 0; elsewhere the output
        is meaningless.

        Args:
          batch: model features; packed where segment ids are present.
          dropout_key: turns dropout on.
        """
        encoder_key, decoder_key = _split(dropout_key, 2)
        encoded_BSD = self.encode(batch, dropout_key=encoder_key)
        source_BS = _segments(batch, "encoder", "encoder_input_tokens")
        target_BL = _segments(batch, "decoder", "decoder_target_tokens")
        packed = "decoder_segment_ids" in batch
        x_BLD = self.decoder(
            self.embed(jnp.asarray(batch["decoder_input_tokens"])),
            Visibility(query_BL=target_BL, key_BS=target_BL, causal=True, packed=packed),
            decoder_key,
            encoded_BSD,
            Visibility(query_BL=target_BL, key_BS=source_BS, causal=False, packed=packed),
        )
        return self._scale(x_BLD)

    def _scale(self, x_BLD: jax.Array) -> jax.Array:
        if not self.config.scale_logits:
            return x_BLD
        return (x_BLD.astype(jnp.float32) * self.config.d_model**-0.5).astype(x_BLD.dtype)

    def head_kernel(self) -> jax.Array:
        """The output head, float32 [V, D]: the token embedding when tied."""
        return (self.token_embedding if self.config.tied_logits else self.head)[...]

    def logits(self, batch: Batch, *, dropout_key: jax.Array | None = None) -> jax.Array:
        """Returns float32 logits [B, L, V]. For small vocabularies and tests; the loss never builds this array."""
        return self._logits(self.hidden(batch, dropout_key=dropout_key))

    def _logits(self, hidden: jax.Array) -> jax.Array:
        head_VD = self.head_kernel().astype(hidden.dtype)
        return jnp.einsum("...D,VD->...V", hidden, head_VD, preferred_element_type=jnp.float32)

    def start_decoding(self, batch: Batch, *, max_decode_length: int) -> DecodeCache:
        """Runs the encoder once, computes the cross-attention keys and values, and returns an empty cache.

        Raises:
          ValueError: for a packed batch.
        """
        if "encoder_segment_ids" in batch:
            raise ValueError(
                "start_decoding got a packed batch (it has `encoder_segment_ids`); decode one example per row."
            )
        config, cross = self.config, self.decoder.layers.cross_attention
        encoded_BSD = self.encode(batch)
        axes = ("layers", "batch", "length", "heads", "kv")

        def project(kernel_NDHA: nnx.Param) -> jax.Array:
            kernel = kernel_NDHA[...].astype(self.dtype)
            return constrain(jnp.einsum("BSD,NDHA->NBSHA", encoded_BSD, kernel), *axes)

        shape = (
            config.num_decoder_layers,
            encoded_BSD.shape[0],
            max_decode_length,
            config.num_heads,
            config.d_kv,
        )
        return DecodeCache(
            self_key=constrain(jnp.zeros(shape, self.dtype), *axes),
            self_value=constrain(jnp.zeros(shape, self.dtype), *axes),
            cross_key=project(cross.key),
            cross_value=project(cross.value),
            source_BS=_segments(batch, "encoder", "encoder_input_tokens"),
        )

    def decode_step(
        self, cache: DecodeCache, tokens_B: jax.Array, index: jax.Array | int
    ) -> tuple[jax.Array, DecodeCache]:
        """Feeds one token per row and predicts the next.

        Args:
          cache: from :meth:`start_decoding` or the previous step.
          tokens_B: the decoder's input at position `index` (0 at position 0).
          index: position, the same for all rows, below `max_decode_length`.

        Returns:
          Float32 logits [B, V] for the target at `index`, equal to the teacher-forced ones, and the new cache.
        """
        length = cache.self_key.shape[2]
        seen_S = jnp.arange(length) <= index

        def step(carry, block: Block, per_layer):
            x_BLD, keys, values = carry
            n, cross_key, cross_value = per_layer
            y_BLD = block.norm(x_BLD, block.self_attention_norm)
            attention = block.self_attention
            start = (n, 0, index, 0, 0)
            new_key = attention.heads(y_BLD, attention.key)[None]
            new_value = attention.heads(y_BLD, attention.value)[None]
            keys = jax.lax.dynamic_update_slice(keys, new_key, start)
            values = jax.lax.dynamic_update_slice(values, new_value, start)
            # by_distance puts distance j - index at entry j - index + length - 1.
            bias_HW = self.decoder.bias_HW(block, length)
            bias_HS = jax.lax.dynamic_slice_in_dim(bias_HW, length - 1 - index, length, axis=1)
            query_BLHA = attention.heads(y_BLD, attention.query)
            bias_HLS = jnp.where(seen_S[None, None], bias_HS[:, None], MASKED)
            y_BLD = attention.merge_heads(
                _attend_one(query_BLHA, keys[n], values[n], bias_HLS[None])
            )
            x_BLD += y_BLD
            y_BLD = block.norm(x_BLD, block.cross_attention_norm)
            attention = block.cross_attention
            query_BLHA = attention.heads(y_BLD, attention.query)
            x_BLD += attention.merge_heads(
                _attend_one(query_BLHA, cross_key, cross_value, source_bias)
            )
            return block.feed_forward(x_BLD, [None, None]), keys, values

        source_bias = jnp.where(cache.source_BS[:, None, None] != 0, 0.0, MASKED)
        layers_N = jnp.arange(self.config.num_decoder_layers)
        x_BLD, keys, values = self.decoder.run(
            step,
            (self.embed(tokens_B[:, None]), cache.self_key, cache.self_value),
            (layers_N, cache.cross_key, cache.cross_value),
        )
        x_BLD = rms_norm(
            x_BLD, self.decoder.final_norm[...], self.config.layer_norm_eps, x_BLD.dtype
        )
        cache = DecodeCache(
            self_key=keys,
            self_value=values,
            cross_key=cache.cross_key,
            cross_value=cache.cross_value,
            source_BS=cache.source_BS,
        )
        return self._logits(self._scale(x_BLD))[:, 0], cache


def _attend_one(query_BLHA, key_BSHA, value_BSHA, bias_BHLS) -> jax.Array:
    logits_BHLS = jnp.einsum(
        "BLHA,BSHA->BHLS", query_BLHA, key_BSHA, preferred_element_type=jnp.float32
    )
    weights_BHLS = jax.nn.softmax(logits_BHLS + bias_BHLS, axis=-1).astype(value_BSHA.dtype)
    return jnp.einsum("BHLS,BSHA->BLHA", weights_BHLS, value_BSHA)
