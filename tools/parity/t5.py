"""The T5 family's cases: every published variant, at toy size."""

from __future__ import annotations

from typing import Any

import torch  # pyright: ignore[reportMissingImports]
import transformers  # pyright: ignore[reportMissingImports]

from tools.parity.case import Case

_SHAPE = {
    "vocab_size": 40,
    "d_model": 8,
    "d_kv": 4,
    "d_ff": 12,
    "num_heads": 2,
    "num_layers": 2,
    "relative_attention_num_buckets": 8,
    "relative_attention_max_distance": 12,
    "decoder_start_token_id": 0,
}
_TAPS = (
    "encoder",
    "decoder",
    "encoder.block.1",
    "decoder.block.1",
    "encoder.block.0.layer.0.SelfAttention",
    "decoder.block.0.layer.0.SelfAttention",
    "decoder.block.1.layer.1.EncDecAttention",
    "encoder.block.1.layer.0.layer_norm",
    "decoder.block.1.layer.2.DenseReluDense",
)
_OPTIONS = ("dtype", "max_shard_size", "adjust", "golden")
GATED = {"feed_forward_proj": "gated-gelu"}


def _build(kind: str, untied: bool, values: dict[str, Any]) -> Any:
    config = getattr(transformers, f"{kind}Config")(**{**_SHAPE, **values})
    model = getattr(transformers, f"{kind}ForConditionalGeneration")(config)
    if untied:  # Transformers 5 ties all, unless the weights it loads differ
        model.lm_head.weight = torch.nn.Parameter(torch.zeros(config.vocab_size, config.d_model))
        model.all_tied_weights_keys.pop("lm_head.weight", None)
    return model


def _case(name: str, **values: Any) -> Case:
    """Fields of :class:`Case`, `kind` and `untied` of :func:`_build`, else of the configuration."""
    options = {key: values.pop(key) for key in _OPTIONS if key in values}
    kind, untied = values.pop("kind", "T5"), values.pop("untied", False)
    return Case(name=name, build=lambda: _build(kind, untied, values), taps=_TAPS, **options)


def _unscaled(model: Any) -> None:
    """What the config.json of the published umT5 says, and Transformers 5 overrules."""
    model.config.tie_word_embeddings = False


CASES = (
    _case("t5_1_0"),
    _case("t5_1_1", untied=True, tie_word_embeddings=False, golden=False, **GATED),
    # Flan-T5: the same, as published in bfloat16 and in several files.
    _case(
        "flan_t5",
        untied=True,
        tie_word_embeddings=False,
        dtype="bfloat16",
        max_shard_size="3KB",
        **GATED,
    ),
    _case("t5_tied_unscaled", tie_word_embeddings=False, golden=False, **GATED),
    _case("mt5", kind="MT5", untied=True),
    _case("mt5_tied", kind="MT5", golden=False),
    _case("umt5", kind="UMT5", untied=True, golden=False),
    _case("umt5_tied", kind="UMT5", golden=False),
    _case("umt5_published", kind="UMT5", untied=True, adjust=_unscaled),
    _case(
        "byt5",
        untied=True,
        tie_word_embeddings=False,
        vocab_size=64,
        num_layers=3,
        num_decoder_layers=2,
        **GATED,
    ),
    # 16 x 256 = d_model there; logits from the embedding.
    _case("ul2", feed_forward_proj="gated-silu", d_kv=8, max_shard_size="4KB"),
    # Default buckets, longer than their exact half.
    _case("default_buckets", relative_attention_num_buckets=32, golden=False,
          relative_attention_max_distance=128),
)  # fmt: skip
