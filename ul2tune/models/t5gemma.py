"""T5Gemma and the text part of T5Gemma 2 by configuration: two Gemmas as encoder and decoder.

References: Zhang et al. 2025 (T5Gemma, arXiv:2504.06225), Zhang et al. 2025 (T5Gemma 2,
arXiv:2512.14856); in detail, Transformers' model classes (5.23). What differs between the two:

                      T5Gemma                            T5Gemma 2
    Gemma             2: soft caps, one rotation         3: norms of queries and keys, two rotations
    the encoder read  by a block of cross-attention      in the self-attention: `merged_attention`
    embeddings        one table per stack                one table, `tied_embeddings`
    encoder's window  as far to both sides               half as far to each side

`t5gemma_model` is what they share.
"""

from __future__ import annotations

import dataclasses
import functools
from dataclasses import dataclass
from typing import ClassVar

from ul2tune.models import config_checks
from ul2tune.models.decoder import DecoderConfig
from ul2tune.models.rotary import Rope

SIDES = ("encoder", "decoder")


@dataclass(frozen=True, kw_only=True)
class StackConfig:
    """Shape of the encoder or the decoder: what one Gemma and another can differ in.

    Attributes:
      d_model: width of the residual stream.
      num_layers: blocks.
      num_heads: query heads.
      num_kv_heads: key/value heads; divides `num_heads`.
      head_dim: size of one head.
      d_ff: width of the feed-forward block.
      max_length: tokens of the longest row; longer ones are refused.
      activation: a key of `layers.ACTIVATIONS`.
      norm_eps: of all norms.
      attention_bias: biases of all products of attention.
      rope: rotary positions of self-attention; what is read of the encoder is not rotated.
      local_rope: those of local layers (T5Gemma 2); None = `rope` everywhere.
      query_scalar: logits are divided by its square root; None = `head_dim`.
      attention_softcap: bound of attention's logits (T5Gemma).
      attention_pattern: "L" local and "G" global layers, repeated over the depth.
      sliding_window: how many tokens local layers see to the left, their own included.
      right_window: the same to the right, for encoders; None = `sliding_window`.
    """

    d_model: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    d_ff: int
    max_length: int
    rope: Rope
    activation: config_checks.Activation = "gelu_gated"
    norm_eps: float = 1e-6
    attention_bias: bool = False
    local_rope: Rope | None = None
    query_scalar: float | None = None
    attention_softcap: float | None = None
    attention_pattern: str = "LG"
    sliding_window: int | None = None
    right_window: int | None = None


@dataclass(frozen=True, kw_only=True)
class T5GemmaConfig:
    """Shape and numerics of one encoder-decoder of Gemma's blocks.

    Attributes:
      vocab_size: rows of the embeddings; at least the vocabulary's ids.
      encoder: bidirectional.
      decoder: causal; it may be of another size (T5Gemma 9B-2B) unless something is shared.
      merged_attention: the decoder's self-attention has the encoder's output among its keys, behind
        its own, in one softmax (T5Gemma 2), instead of cross-attention in a block of its own.
      qk_norm: whether queries and keys are normed per head (T5Gemma 2).
      tied_embeddings: one table of token embeddings for both stacks (T5Gemma 2).
      tied_logits: whether the decoder's token embedding is also the output head.
      logit_softcap: bound of the output's logits (T5Gemma).
      start_id: what the decoder reads first, where SeqIO's features have 0: the
        beginning-of-sequence token.
      eoi_id: a token (the end of an image) whose embedding is a parameter of its own, outside of
        the table and not scaled (T5Gemma 2); None = no such token.
      dropout_rate: probability of dropping from embeddings, from what a branch adds, inside the
        feed-forward block, and from the final norms' outputs; applied only when a dropout key is
        given.
      attention_dropout_rate: the same of attention weights.
      dtype: "bfloat16" or "float32" activations and products; parameters are float32 either way.
      remat: what the backward pass computes again: "none", "dots" or "full", see `folding.REMAT`.
      scan_layers: one compiled block looped over the layers of a stack, or all blocks inline.
      attention: "xla", "chunked" (memory linear in length), "cudnn" (NVIDIA GPUs, bfloat16, no
        `attention_softcap`), or "auto": "cudnn" where it is supported, else "xla".
      attention_chunk_tokens: keys per step of "chunked".

    Raises:
      ValueError: on values that contradict each other, or that something else ignores.
    """

    # How the feed lays out batches for this kind of model (FeedConfig.layout).
    LAYOUTS: ClassVar[tuple[str, ...]] = ("encoder_decoder",)

    vocab_size: int
    encoder: StackConfig
    decoder: StackConfig
    merged_attention: bool = False
    qk_norm: bool = False
    tied_embeddings: bool = False
    tied_logits: bool = True
    logit_softcap: float | None = None
    start_id: int = 2
    eoi_id: int | None = None
    dropout_rate: float = 0.0
    attention_dropout_rate: float = 0.0
    dtype: config_checks.Dtype = "bfloat16"
    remat: config_checks.Remat = "none"
    scan_layers: bool = True
    attention: config_checks.Attention = "auto"
    attention_chunk_tokens: int = 512

    def __post_init__(self):
        for side in SIDES:
            try:
                self.gemma(side)
            except ValueError as error:
                raise ValueError(f"T5GemmaConfig, as it makes up its {side}: {error}") from error
        right, left = self.encoder.right_window, self.encoder.sliding_window
        widths = f"{self.encoder.d_model} and {self.decoder.d_model}"
        other_width = self.encoder.d_model != self.decoder.d_model
        eoi_id, rows = self.eoi_id, self.vocab_size
        problems = (
            (
                self.decoder.right_window is not None,
                "decoder.right_window is set, but a decoder sees nothing to its right",
            ),
            (
                right is not None and (type(right) is not int or right < 1 or not left),
                f"encoder.right_window = {right} must be a positive integer beside "
                f"sliding_window, or None",
            ),
            (
                self.merged_attention and other_width,
                f"merged_attention needs encoder and decoder of one d_model, not {widths}",
            ),
            (
                self.tied_embeddings and other_width,
                f"tied_embeddings needs encoder and decoder of one d_model, not {widths}",
            ),
            (
                eoi_id is not None and (type(eoi_id) is not int or not 0 <= eoi_id < rows),
                f"eoi_id = {eoi_id!r} must be an id below vocab_size = {rows}, or None",
            ),
        )
        config_checks.check_problems(self, problems)

    def gemma(self, side: str) -> DecoderConfig:
        """The decoder-only model that one stack ("encoder" or "decoder") has the blocks of, and
        that its parameters can come from."""
        return _gemma(self, side)

    def check_row_lengths(self, encoder: int = 0, decoder: int = 0) -> None:
        """Refuses rows that are too long; arguments as `FeedConfig.row_lengths` has them.

        Raises:
          ValueError: if they are longer than the `max_length` of their stack.
        """
        for side, length in zip(SIDES, (encoder, decoder), strict=True):
            limit = getattr(self, side).max_length
            if length > limit:
                raise ValueError(
                    f"A row of {length} tokens for the {side} is longer than its max_length = "
                    f"{limit} (T5GemmaConfig.{side}). Lower TASK_FEATURE_LENGTHS (train), or "
                    f"INFER_INPUTS_LENGTH, EVAL_INPUTS_LENGTH or MAX_DECODE_LENGTH; or raise it if "
                    f"the model can go further."
                )


_SHARED = (
    "vocab_size",
    "qk_norm",
    "tied_logits",
    "logit_softcap",
    "start_id",
    "dropout_rate",
    "attention_dropout_rate",
    "dtype",
    "remat",
    "scan_layers",
    "attention",
    "attention_chunk_tokens",
)


@functools.lru_cache(maxsize=64)
def _gemma(config: T5GemmaConfig, side: str) -> DecoderConfig:
    stack: StackConfig = getattr(config, side)
    own = {field.name: getattr(stack, field.name) for field in dataclasses.fields(stack)}
    del own["right_window"]
    return DecoderConfig(
        **own,
        **{name: getattr(config, name) for name in _SHARED},
        norm="rms_offset",
        norm_order="sandwich",
        attention_out_bias=stack.attention_bias,
        scale_embeddings=True,
    )
