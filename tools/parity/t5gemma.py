"""T5Gemma's and T5Gemma 2's cases at toy size; of the latter the text part."""

from __future__ import annotations

from typing import Any

import transformers  # pyright: ignore[reportMissingImports]

from tools.parity.case import Case

_STACK = {
    "vocab_size": 32,
    "hidden_size": 16,
    "intermediate_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 4,
    "max_position_embeddings": 64,
    "sliding_window": 3,
    "query_pre_attn_scalar": 12,
}
_CAPS = {"attn_logit_softcapping": 2.0, "final_logit_softcapping": 3.0}
_VISION = {
    "model_type": "siglip_vision_model",
    "hidden_size": 4,
    "intermediate_size": 4,
    "num_hidden_layers": 1,
    "num_attention_heads": 1,
    "image_size": 4,
    "patch_size": 2,
    "vision_use_head": False,
}
_ROPES = {
    "sliding_attention": {"rope_type": "default", "rope_theta": 1e2},
    "full_attention": {"rope_type": "linear", "rope_theta": 1e4, "factor": 8.0},
}
_PATTERN = {"layer_types": ["sliding_attention", "full_attention"]}
_LAYER = ("self_attn", "mlp", "pre_self_attn_layernorm", "post_feedforward_layernorm")
_TAPS = (
    "encoder.layers.1",
    *(f"encoder.layers.0.{name}" for name in _LAYER),
    *(f"decoder.layers.0.{name}" for name in _LAYER[1:]),
    "decoder.norm",
)
_CROSS = ("decoder.layers.1", "decoder.layers.0.self_attn", "decoder.layers.0.cross_attn")
_OPTIONS = ("golden", "dtype", "max_shard_size")


def _case(name: str, encoder: dict[str, Any], decoder: dict[str, Any], **values: Any) -> Case:
    options = {key: values.pop(key) for key in _OPTIONS if key in values}

    def build() -> Any:
        config = transformers.T5GemmaConfig(
            encoder={**_STACK, **_CAPS, **encoder}, decoder={**_STACK, **_CAPS, **decoder},
            vocab_size=32, **values,
        )  # fmt: skip
        return transformers.T5GemmaForConditionalGeneration(config)

    taps = tuple(f"model.{tap}" for tap in (*_TAPS, *_CROSS))
    return Case(name=name, build=build, start_id=2, taps=taps, **options)


def _case_2(name: str, encoder: dict[str, Any], decoder: dict[str, Any], **values: Any) -> Case:
    options = {key: values.pop(key) for key in _OPTIONS if key in values}
    # An id that the inputs hold.
    outer = {"vision_config": _VISION, "mm_tokens_per_image": 4, "eoi_token_index": 5}

    def build() -> Any:
        shape = {**_STACK, **_PATTERN, "rope_parameters": _ROPES}
        config = transformers.T5Gemma2Config(
            encoder={**outer, "text_config": {**shape, **encoder}},
            decoder={**shape, **decoder},
            image_token_index=6,
            **values,
        )
        return transformers.T5Gemma2ForConditionalGeneration(config)

    taps = tuple(f"model.{tap}".replace("encoder.", "encoder.text_model.") for tap in _TAPS)
    options["saved_as"] = lambda name: name.replace("text_model.", "")
    absent = r"model\.encoder\.(vision_tower|multi_modal_projector)\..*"
    return Case(name=name, build=build, start_id=2, taps=taps, absent=absent, **options)


CASES = (
    _case("t5gemma", {}, {}),
    # As published 9B-2B: two sizes; in bfloat16 and several files.
    _case("t5gemma_unbalanced", {"hidden_size": 24, "num_hidden_layers": 3,
          "num_attention_heads": 2}, {"num_key_value_heads": 1}, dtype="bfloat16",
          max_shard_size="4KB", golden=False),
    _case("t5gemma_untied", {"attention_bias": True, "sliding_window": 2}, {"attention_bias": True},
          tie_word_embeddings=False, golden=False),
    _case("t5gemma_uncapped", {"attn_logit_softcapping": None, "rms_norm_eps": 1e-3},
          {"attn_logit_softcapping": None, "final_logit_softcapping": None, "sliding_window": 2},
          golden=False),
    _case_2("t5gemma2", {}, {}),
    # An even window reaches one further to the right.
    _case_2("t5gemma2_even", {"sliding_window": 4,
            "layer_types": ["sliding_attention"] * 2}, {"sliding_window": 2}, golden=False),
    _case_2("t5gemma2_untied", {"num_key_value_heads": 4}, {"num_attention_heads": 2},
            tie_word_embeddings=False, dtype="bfloat16", golden=False),
    _case_2("t5gemma2_defaults", {"layer_types": None, "num_hidden_layers": 7,
            "rope_parameters": None}, {"rope_parameters": None, "final_logit_softcapping": 3.0},
            golden=False),
)  # fmt: skip
