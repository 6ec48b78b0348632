"""Decoder-only transformers by configuration: OPT, Llama 2/3, Qwen 2.5/3, Gemma 2/3 (text), T5's.

What the families differ in, and nothing else: `decoder_model` is what they share. References: Zhang
et al. 2022 (OPT, arXiv:2205.01068), Touvron et al. 2023 (Llama 2, arXiv:2307.09288), Dubey et al.
2024 (Llama 3, arXiv:2407.21783), Yang et al. 2024 and 2025 (Qwen 2.5, arXiv:2412.15115; Qwen 3,
arXiv:2505.09388), Gemma team 2024 and 2025 (Gemma 2, arXiv:2408.00118; Gemma 3, arXiv:2503.19786);
in detail, Transformers' model classes. T5's decoder without an encoder (relative position biases;
UL2's decoder-only baselines, Tay et al. 2022, arXiv:2205.05131) is that of T5X's
`examples/decoder_only`.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Annotated, ClassVar

from ul2tune.models import config_checks, norms
from ul2tune.models.grouped_attention import AttentionConfig
from ul2tune.models.rotary import Rope

_OPTIONAL_SIZES = ("embedding_dim", "sliding_window", "relative_buckets", "relative_max_distance")
_OPTIONAL_SCALES = ("query_scalar", "attention_softcap", "logit_softcap")


@dataclass(frozen=True, kw_only=True)
class DecoderConfig:
    """Shape and numerics of one decoder-only model.

    Attributes:
      vocab_size: rows of the embedding; at least the vocabulary's ids.
      d_model: width of the residual stream.
      num_layers: blocks.
      num_heads: query heads.
      num_kv_heads: key/value heads; divides `num_heads`.
      head_dim: size of one head.
      d_ff: width of the feed-forward block.
      max_length: tokens of the longest row, or of prompt and continuation; longer ones are refused.
        With `learned_positions` it is the size of their table.
      activation: a key of `layers.ACTIVATIONS`: "relu" (OPT), "silu_gated" (Llama, Qwen),
        "gelu_gated" (Gemma).
      norm: a member of `norms.NORMS`: "rms" (Llama, Qwen), "rms_offset" (Gemma), "layer" (OPT).
      norm_order: "pre", "post" (OPT 350M) or "sandwich", before and after each branch (Gemma).
      final_norm: whether the stream is normed before the head (not in OPT 350M).
      norm_eps: of all norms.
      qk_norm: whether queries and keys are normed per head (Qwen 3, Gemma 3).
      attention_bias: biases of queries, keys and values (OPT, Qwen 2.5).
      attention_out_bias: bias of attention's output (OPT).
      mlp_bias: biases of the feed-forward block (OPT).
      rope: rotary positions; None = one of the other two kinds.
      local_rope: those of local layers (Gemma 3); None = `rope` everywhere.
      learned_positions: a table of positions is added to the embeddings (OPT) instead of `rope`.
      relative_buckets: buckets of T5's relative position bias, one table for all layers, instead of
        `rope` and `learned_positions`. All keys to the right share the bucket of distance 0, in a
        prefix too, as in T5X. Such a model is initialised as T5, and `dropout_rate` acts where T5
        has it.
      relative_max_distance: distance from which on all share one bucket; set with
        `relative_buckets`, and only then.
      query_scalar: attention's logits are divided by its square root (Gemma; T5: 1); None =
        `head_dim`.
      attention_softcap: bound of attention's logits, ``cap * tanh(x / cap)`` (Gemma 2).
      logit_softcap: bound of the output's (Gemma 2).
      attention_pattern: "L" local and "G" global layers, repeated over the depth: "G", "LG" (Gemma
        2), "LLLLLG" (Gemma 3).
      sliding_window: how many tokens local layers see, their own included; in a prefix as many to
        the right. Set if the pattern has an "L", and only then.
      embedding_dim: size of token embeddings that are projected to and from `d_model` (OPT 350M);
        None = `d_model`, no projections.
      scale_embeddings: whether token embeddings are multiplied by ``d_model ** 0.5`` (Gemma).
      tied_logits: whether the token embedding is also the output head.
      scale_logits: whether logits are multiplied by ``d_model ** -0.5``, as T5 does when tied.
      start_id: the beginning-of-sequence token. SeqIO's features start every document with 0, in
        place of which the model reads this id; 0 leaves them as they are.
      dropout_rate: probability of dropping from what a branch adds, with `relative_buckets` also
        from embeddings, attention weights, hidden activations of the feed-forward, and final
        states; applied only when a dropout key is given.
      attention_dropout_rate: the same of attention weights, where `dropout_rate` is not.
      dtype: "bfloat16" or "float32" activations and products; parameters are float32 either way.
      remat: what the backward pass computes again: "none", "dots" or "full", see `folding.REMAT`.
      scan_layers: one compiled block looped over the layers, or all blocks inline.
      attention: "xla", "chunked" (memory linear in length), "cudnn" (NVIDIA GPUs, bfloat16, no
        `attention_softcap`), or "auto": "cudnn" where it is supported, else "xla".
      attention_chunk_tokens: keys per step of "chunked".

    Raises:
      ValueError: on values that contradict each other, or that something else ignores.
    """

    # How the feed lays out batches for this kind of model (FeedConfig.layout).
    LAYOUTS: ClassVar[tuple[str, ...]] = ("prefix_lm", "causal_lm")

    vocab_size: int
    d_model: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    d_ff: int
    max_length: int
    activation: config_checks.Activation = "silu_gated"
    norm: Annotated[str, norms.NORMS] = "rms"
    norm_order: Annotated[str, norms.NORM_ORDERS] = "pre"
    final_norm: bool = True
    norm_eps: float = 1e-6
    qk_norm: bool = False
    attention_bias: bool = False
    attention_out_bias: bool = False
    mlp_bias: bool = False
    rope: Rope | None = None
    local_rope: Rope | None = None
    learned_positions: bool = False
    relative_buckets: int | None = None
    relative_max_distance: int | None = None
    query_scalar: float | None = None
    attention_softcap: float | None = None
    logit_softcap: float | None = None
    attention_pattern: str = "G"
    sliding_window: int | None = None
    embedding_dim: int | None = None
    scale_embeddings: bool = False
    tied_logits: bool = False
    scale_logits: bool = False
    start_id: int = 0
    dropout_rate: float = 0.0
    attention_dropout_rate: float = 0.0
    dtype: config_checks.Dtype = "bfloat16"
    remat: config_checks.Remat = "none"
    scan_layers: bool = True
    attention: config_checks.Attention = "auto"
    attention_chunk_tokens: int = 512

    def __post_init__(self):
        self._check_values()
        is_t5, has_local = self.relative_buckets is not None, any(self.is_local)
        kinds = (self.rope is not None) + self.learned_positions + is_t5
        buckets, distance = self.relative_buckets or 0, self.relative_max_distance or 0
        problems = (
            (
                self.num_heads % self.num_kv_heads != 0,
                f"num_kv_heads = {self.num_kv_heads} does not divide num_heads = {self.num_heads}",
            ),
            (
                kinds != 1,
                "rope, learned_positions and relative_buckets are three kinds of positions: set "
                "exactly one of them",
            ),
            (
                is_t5 != (self.relative_max_distance is not None),
                f"relative_buckets = {self.relative_buckets} and relative_max_distance = "
                f"{self.relative_max_distance} need each other",
            ),
            (
                is_t5 and not 2 <= buckets < 2 * distance,
                f"relative_buckets = {buckets} must be at least 2 and less than twice "
                f"relative_max_distance = {distance}",
            ),
            (
                is_t5 and self.attention_dropout_rate != 0.0,
                f"attention_dropout_rate = {self.attention_dropout_rate} has no use with "
                f"relative_buckets: as in T5 dropout_rate acts there too; leave it 0.0",
            ),
            (
                self.rope is not None and self.head_dim % 2 != 0,
                f"head_dim = {self.head_dim} must be even to be rotated",
            ),
            (
                (self.sliding_window is not None) != has_local,
                f"sliding_window = {self.sliding_window} belongs to patterns with L, which need "
                f"it; attention_pattern = {self.attention_pattern!r}",
            ),
            (
                self.local_rope is not None and (self.rope is None or not has_local),
                "local_rope needs rope, and local layers (L in attention_pattern)",
            ),
            (
                self.attention == "cudnn" and self.attention_softcap is not None,
                "attention = 'cudnn' cannot cap its logits (attention_softcap); use 'xla' or "
                "'chunked'",
            ),
            (
                type(self.start_id) is not int or not 0 <= self.start_id < self.vocab_size,
                f"start_id = {self.start_id!r} is not an id of the {self.vocab_size} rows",
            ),
        )
        config_checks.check_problems(self, problems)

    def _check_values(self) -> None:
        """Every field by itself."""
        config_checks.check_choices(self, norm=norms.NORMS, norm_order=norms.NORM_ORDERS)
        if not self.attention_pattern or set(self.attention_pattern) - set("LG"):
            raise ValueError(
                f"DecoderConfig.attention_pattern = {self.attention_pattern!r} must be letters "
                f"L (local) and G (global)."
            )
        sizes = {field.name for field in dataclasses.fields(self) if field.type == "int"}
        sizes |= {name for name in _OPTIONAL_SIZES if getattr(self, name) is not None}
        config_checks.check_sizes(self, sorted(sizes - {"start_id"}))
        for name in _OPTIONAL_SCALES:
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf:
                raise ValueError(f"DecoderConfig.{name} = {value!r} must be positive, or None.")
        config_checks.check_positive(self, "norm_eps")
        config_checks.check_rates(self, "dropout_rate", "attention_dropout_rate")

    def check_row_lengths(self, row: int, unused: int = 0) -> None:
        """Refuses rows that are too long; arguments as `FeedConfig.row_lengths` has them.

        Raises:
          ValueError: if they are longer than `max_length`.
        """
        if row > self.max_length:
            raise ValueError(
                f"A row of {row} tokens (prompt and continuation together) is longer than "
                f"DecoderConfig.max_length = {self.max_length}. Lower TASK_FEATURE_LENGTHS "
                f"(train), or INFER_INPUTS_LENGTH, EVAL_INPUTS_LENGTH or MAX_DECODE_LENGTH; or "
                f"raise it if the model can go further."
            )

    @property
    def is_local(self) -> tuple[bool, ...]:
        """Whether each layer sees only `sliding_window` tokens."""
        pattern = self.attention_pattern
        return tuple(pattern[n % len(pattern)] == "L" for n in range(self.num_layers))

    @property
    def attention_config(self) -> AttentionConfig:
        """The attention block of every layer."""
        return AttentionConfig(
            d_model=self.d_model,
            num_heads=self.num_heads,
            num_kv_heads=self.num_kv_heads,
            head_dim=self.head_dim,
            scale=(self.query_scalar or self.head_dim) ** -0.5,
            bias=self.attention_bias,
            out_bias=self.attention_out_bias,
            norm=self.norm if self.qk_norm else None,
            norm_eps=self.norm_eps,
            softcap=self.attention_softcap,
            query_init=self._query_init,
        )

    @property
    def _query_init(self) -> float:
        """Factor of the query's initial scale: T5 does not scale logits (`query_scalar` 1), and
        starts with smaller queries instead."""
        if self.relative_buckets is None:
            return 1.0
        return ((self.query_scalar or self.head_dim) / self.head_dim) ** 0.5
