"""The decoder-only families' cases: OPT, Llama 2/3, Qwen 2.5/3, Gemma 2/3 at toy size."""

from __future__ import annotations

from typing import Any

import transformers  # pyright: ignore[reportMissingImports]

from tools.parity.case import Case

_SHAPE = {
    "vocab_size": 32,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": 2,
    "eos_token_id": 1,
}
_ROTARY = {**_SHAPE, "num_key_value_heads": 2, "intermediate_size": 16, "head_dim": 8}
_OPT = {**_SHAPE, "ffn_dim": 16}
_SMALL = {**_ROTARY, "head_dim": 4}
_GEMMA = {**_SMALL, "sliding_window": 3, "query_pre_attn_scalar": 12}
_LAYER_TAPS = ("self_attn", "mlp", "input_layernorm", "post_attention_layernorm")
_TAPS = tuple(f"model.layers.1.{name}" for name in _LAYER_TAPS) + ("model.norm",)
_OPT_TAPS = tuple(
    f"model.decoder.layers.1.{name}" for name in ("self_attn", "self_attn_layer_norm", "fc1")
)
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 5e3,
    "factor": 4.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
}


def _case(name: str, kind: str, shape: dict[str, Any], **values: Any) -> Case:
    options = {key: values.pop(key) for key in ("dtype", "golden", "taps") if key in values}

    def build() -> Any:
        config_class = getattr(transformers, f"{kind}{'Text' if kind == 'Gemma3' else ''}Config")
        return getattr(transformers, f"{kind}ForCausalLM")(config_class(**{**shape, **values}))

    return Case(name=name, kind="causal", build=build, **{"taps": _TAPS, **options})


CASES = (
    _case("opt", "OPT", _OPT, taps=_OPT_TAPS, golden=False),
    # OPT 350M: post-norm, no final norm, projected embeddings.
    _case("opt_350m", "OPT", _OPT, taps=_OPT_TAPS, dtype="bfloat16", do_layer_norm_before=False,
          word_embed_proj_dim=12),
    _case("opt_untied", "OPT", _OPT, taps=_OPT_TAPS, golden=False, tie_word_embeddings=False,
          enable_bias=False, activation_function="gelu_new"),
    _case("llama2", "Llama", {**_ROTARY, "num_key_value_heads": 4}, golden=False),
    _case("llama3", "Llama", _ROTARY, rope_parameters=LLAMA3, tie_word_embeddings=True),
    _case("llama_biased", "Llama", _ROTARY, golden=False, attention_bias=True, mlp_bias=True,
          rope_parameters={"rope_type": "linear", "rope_theta": 1e3, "factor": 2.0}),
    _case("qwen2", "Qwen2", _SMALL, rope_parameters={"rope_type": "default", "rope_theta": 1e6}),
    _case("qwen2_sliding", "Qwen2", _ROTARY, golden=False, use_sliding_window=True,
          sliding_window=4, max_window_layers=1),
    _case("qwen3", "Qwen3", _SMALL, tie_word_embeddings=True),
    _case("qwen3_biased", "Qwen3", _ROTARY, golden=False, attention_bias=True),
    _case("gemma2", "Gemma2", _GEMMA, attn_logit_softcapping=2.0, final_logit_softcapping=3.0),
    _case("gemma2_uncapped", "Gemma2", {**_GEMMA, "num_hidden_layers": 3}, golden=False,
          attn_logit_softcapping=None, final_logit_softcapping=None, tie_word_embeddings=False),
    # No local layer: Transformers makes their mask all the same.
    _case("gemma2_full", "Gemma2", {**_GEMMA, "layer_types": ["full_attention"] * 2}, golden=False),
    _case(
        "gemma3",
        "Gemma3",
        {**_GEMMA, "num_hidden_layers": 3, "sliding_window_pattern": 2},
        rope_parameters={
            "sliding_attention": {"rope_type": "default", "rope_theta": 1e2},
            "full_attention": {"rope_type": "linear", "rope_theta": 1e4, "factor": 8.0},
        },
    ),
    _case("gemma3_defaults", "Gemma3", {**_GEMMA, "num_hidden_layers": 7}, golden=False),
    _case("gemma3_full", "Gemma3", {**_GEMMA, "layer_types": ["full_attention"] * 2}, golden=False),
)  # fmt: skip
