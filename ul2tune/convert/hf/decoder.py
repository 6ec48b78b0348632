"""Transformers' decoder-only models: ``opt``, ``llama``, ``qwen2``, ``qwen3``, ``gemma2``,
``gemma3_text``, and the text part of ``gemma3``.

Read against Transformers 5.23 (`models/*/{configuration,modeling}_*.py`, `modeling_rope_utils.py`).
Rotary positions are understood in both spellings, ``rope_parameters`` (version 5) and
``rope_theta`` with ``rope_scaling`` and ``rope_local_base_freq`` (version 4), and written in both.
What can be exported is what reads back as the same configuration.

Axes: D model, E embedding, F mlp, H heads, K key/value heads, A head size, V vocabulary.
"""

from __future__ import annotations

import dataclasses
import json
import logging
from collections.abc import Mapping
from typing import Any

from ul2tune.convert.hf import decoder_names
from ul2tune.convert.hf import rope as hf_rope
from ul2tune.convert.hf.decoder_names import EMBEDDING, HEAD
from ul2tune.convert.hf.fields import Fields
from ul2tune.convert.mapping import Family, Leaf, Tensors
from ul2tune.models.base import FREE_FIELDS
from ul2tune.models.decoder import DecoderConfig

log = logging.getLogger(__name__)
OPT_EPS = 1e-5  # of torch.nn.LayerNorm; not in config.json
GEMMA = ("gemma2", "gemma3_text")
# "bos_token_id" where config.json leaves it out, as that of Gemma 3 with its vision part does.
_BOS = {"opt": 2, "llama": 1, **dict.fromkeys(GEMMA, 2)}
_ACTIVATIONS = {
    "silu": "silu_gated",
    "gelu_pytorch_tanh": "gelu_gated",
    "gelu_new": "gelu_gated",
}
_OPT_ACTIVATIONS = {"relu": "relu", "gelu_new": "gelu", "gelu_pytorch_tanh": "gelu"}
# What :meth:`DecoderFamily.observe` adds.
_TIED, _PREFIX = "ul2tune_tied_logits", "ul2tune_prefix"
_ARCHITECTURES = {
    "opt": "OPTForCausalLM",
    "llama": "LlamaForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
    "gemma2": "Gemma2ForCausalLM",
    "gemma3_text": "Gemma3ForCausalLM",
}


class DecoderFamily(Family):
    """See the module's documentation."""

    model_types = (*_ARCHITECTURES, "gemma3")
    config_type = DecoderConfig
    ignored = (r".*rotary_emb\.inv_freq",)  # buffers that old files hold
    parts = (r"(model\.)?(vision_tower|multi_modal_projector)\..*",)

    def observe(self, hf: Mapping[str, Any], tensors: Tensors) -> Mapping[str, Any]:
        """Adds whether the head is the embedding, and what names begin with."""
        hf = _read_part(hf)
        ends = [name for name in tensors.names if name.endswith(EMBEDDING)]
        prefix = ends[0].removesuffix(EMBEDDING) if len(ends) == 1 else None
        head = next((name for name in tensors.names if name.endswith(HEAD)), None)
        tied = hf.get("tie_word_embeddings", hf["model_type"] in ("opt", *GEMMA))
        if tied and head is not None and prefix is not None:
            # Transformers 5 uses a head that differs, whatever config.json says.
            tied = tensors.equal(head, prefix + EMBEDDING)
        _tell_start(hf)
        return {**hf, _TIED: tied, **({} if prefix is None else {_PREFIX: prefix})}

    def config_from_hf(self, hf: Mapping[str, Any]) -> DecoderConfig:
        hf = _read_part(hf)
        fields = Fields(hf)
        kind = fields.one_of("model_type", tuple(_ARCHITECTURES))
        fields.expect("is_encoder_decoder", False)
        fields.expect("add_cross_attention", False)
        fields.expect("pretraining_tp", 1)
        tied = fields.boolean("tie_word_embeddings", kind in ("opt", *GEMMA))
        values = _opt(fields) if kind == "opt" else rotary_model(fields, kind)
        return DecoderConfig(
            **values,
            vocab_size=fields.positive("vocab_size"),
            d_model=fields.positive("hidden_size"),
            num_layers=fields.layers("num_hidden_layers"),
            num_heads=fields.positive("num_attention_heads"),
            tied_logits=fields.boolean(_TIED, tied),
            start_id=_start_id(fields, kind),
            attention_dropout_rate=fields.number("attention_dropout", 0.0),
        )

    def config_to_hf(self, config: DecoderConfig, like: Mapping[str, Any]) -> dict[str, Any]:
        like = _text_part(like)
        kind = _kind(config)
        theirs = described(config, kind)
        stale = ("rope_scaling", "rope_parameters", "sliding_window_pattern", _TIED, _PREFIX)
        kept = {name: value for name, value in like.items() if name not in stale}
        if kind in GEMMA and kept.get("sliding_window", 0) is None:
            del kept["sliding_window"]  # see `hf_rope.described`
        theirs = {**kept, "model_type": kind, "architectures": [_ARCHITECTURES[kind]], **theirs}
        _check_round_trip(config, self.config_from_hf(theirs), kind)
        return theirs

    def leaves(self, config: DecoderConfig, hf: Mapping[str, Any]) -> tuple[Leaf, ...]:
        prefix = hf.get(_PREFIX, "model.decoder." if config.learned_positions else "model.")
        return decoder_names.table(config, prefix, opt=config.learned_positions)


def _read_part(hf: Mapping[str, Any]) -> Mapping[str, Any]:
    """`_text_part` of what is imported."""
    text = _text_part(hf)
    if hf.get("model_type") == "gemma3" and text.get("final_logit_softcapping") is not None:
        # Only Gemma3ForCausalLM caps. Others may read it in this folder: the user decides.
        raise Fields(text).error(
            "final_logit_softcapping",
            "in a 'gemma3', whose logits Transformers does not cap, anything but null is",
        )
    return text


def _text_part(hf: Mapping[str, Any]) -> Mapping[str, Any]:
    """The language model's part of a config.json."""
    if hf.get("model_type") != "gemma3":
        return hf
    text = hf.get("text_config")
    if not isinstance(text, Mapping):
        raise Fields(hf).error("text_config", "anything but an object is")
    added = {name: value for name, value in hf.items() if name in (_TIED, _PREFIX)}
    # Published files leave out what Transformers 4.50 had as defaults.
    defaults = {
        "vocab_size": 262208,
        "num_attention_heads": 8,
        "num_key_value_heads": 4,
        "rms_norm_eps": 1e-6,
    }
    # The whole model ties, or not; Transformers 5 does not ask its text part.
    tied = {"tie_word_embeddings": hf.get("tie_word_embeddings", True)}
    return {**defaults, **text, **tied, **added, "model_type": "gemma3_text"}


def _start_id(fields: Fields, kind: str) -> int:
    """What documents start with: the beginning-of-sequence token.

    DIVERGES: Where there is none, Transformers starts with the text. A causal LM of ours needs an
    id to predict the first token from: what ended the document before.
    """
    size = fields.positive("vocab_size")
    start = _bos(fields.values, kind)
    if start is not None and (type(start) is not int or start < 0):
        raise fields.error("bos_token_id", "anything but an id is")
    if start is not None and start < size:
        return start
    ends = fields.values.get("eos_token_id")
    ends = ends if isinstance(ends, list) else [ends]
    return next((end for end in ends if type(end) is int and 0 <= end < size), 0)


def _bos(hf: Mapping[str, Any], kind: str) -> Any:
    return hf.get("bos_token_id", _BOS.get(kind))


def _tell_start(hf: Mapping[str, Any]) -> None:
    """Warns where a model does not say what documents start with."""
    kind = hf["model_type"]
    start, start_id = _bos(hf, kind), _start_id(Fields(hf), kind)
    if start != start_id:
        log.warning(
            "config.json has bos_token_id = %s, which is no token of the model: documents start "
            "with %d (its eos_token_id is %s).",
            json.dumps(start),
            start_id,
            json.dumps(hf.get("eos_token_id")),
        )


def _opt(fields: Fields) -> dict[str, Any]:
    fields.expect("layer_norm_elementwise_affine", True)
    fields.expect("layerdrop", 0, 0.0)
    width, heads = fields.positive("hidden_size"), fields.positive("num_attention_heads")
    bias = fields.boolean("enable_bias", True)
    pre = fields.boolean("do_layer_norm_before", True)
    if width % heads:
        raise fields.error("num_attention_heads", f"what does not divide hidden_size {width} is")
    embedding = fields.values.get("word_embed_proj_dim")
    name = fields.text("activation_function", "relu")
    if name not in _OPT_ACTIVATIONS:
        raise fields.error("activation_function", f"anything but {', '.join(_OPT_ACTIVATIONS)} is")
    return {
        "num_kv_heads": heads,
        "head_dim": width // heads,
        "d_ff": fields.positive("ffn_dim"),
        "max_length": fields.positive("max_position_embeddings", 2048),
        "activation": _OPT_ACTIVATIONS[name],
        "norm": "layer",
        "norm_order": "pre" if pre else "post",
        "final_norm": pre and not fields.boolean("_remove_final_layer_norm", False),
        "norm_eps": OPT_EPS,
        "attention_bias": bias,
        "attention_out_bias": bias,
        "mlp_bias": bias,
        "learned_positions": True,
        "embedding_dim": None if embedding in (None, width) else embedding,
        "dropout_rate": fields.number("dropout", 0.1),
    }


def rotary_model(fields: Fields, kind: str) -> dict[str, Any]:
    """Fields of `DecoderConfig` in the config.json of a model that rotates its positions."""
    hf, gemma = fields.values, kind in GEMMA
    width, heads = fields.positive("hidden_size"), fields.positive("num_attention_heads")
    fields.expect("use_bidirectional_attention", False)
    head_dim = {"qwen3": 128, "gemma2": 256, "gemma3_text": 256}.get(kind)
    if hf.get("head_dim"):
        head_dim = fields.positive("head_dim")
    if head_dim is None and width % heads:
        raise fields.error("num_attention_heads", f"what does not divide hidden_size {width} is")
    kv_heads = hf.get("num_key_value_heads")
    # Gemmas do not read hidden_act, which their files hold too.
    act = "hidden_activation" if gemma else "hidden_act"
    name = fields.text(act, "gelu_pytorch_tanh" if gemma else "silu")
    if name not in _ACTIVATIONS:
        raise fields.error(act, f"anything but {', '.join(_ACTIVATIONS)} is")
    bias = fields.boolean("attention_bias", False) if kind != "qwen2" else True
    local = hf_rope.local_layers(fields, kind)
    rope, local_rope = hf_rope.ropes(fields, nested=kind == "gemma3_text")
    values: dict[str, Any] = {
        "num_kv_heads": heads if kv_heads is None else fields.positive("num_key_value_heads"),
        "head_dim": head_dim or width // heads,
        "d_ff": fields.positive("intermediate_size"),
        "max_length": fields.positive("max_position_embeddings"),
        "activation": _ACTIVATIONS[name],
        "norm": "rms_offset" if gemma else "rms",
        "norm_order": "sandwich" if gemma else "pre",
        "norm_eps": fields.number("rms_norm_eps", 1e-6),
        "qk_norm": kind in ("qwen3", "gemma3_text"),
        "attention_bias": bias,
        "attention_out_bias": bias and kind != "qwen2",
        "mlp_bias": fields.boolean("mlp_bias", False) if kind == "llama" else False,
        "rope": rope,
        "local_rope": local_rope if any(local) else None,
        "attention_pattern": hf_rope.pattern(local),
        "sliding_window": fields.positive("sliding_window", 4096) if any(local) else None,
        "scale_embeddings": gemma,
    }
    if kind == "gemma3_text" and hf.get("attn_logit_softcapping") is not None:
        # The configuration has the field, the model does not read it.
        raise fields.error("attn_logit_softcapping", "anything but null is")
    if gemma:
        scalar = fields.number("query_pre_attn_scalar", 256)
        caps = {"gemma2": (50.0, 30.0), "gemma3_text": (None, None)}[kind]
        values |= {
            "query_scalar": None if scalar == values["head_dim"] else scalar,
            "attention_softcap": _cap(fields, "attn_logit_softcapping", caps[0]),
            "logit_softcap": _cap(fields, "final_logit_softcapping", caps[1]),
        }
    return values


def _cap(fields: Fields, name: str, default: float | None) -> float | None:
    # Present and null is "none"; Transformers writes it so.
    if name not in fields.values:
        return default
    return None if fields.values[name] is None else fields.number(name)


def _kind(config: DecoderConfig) -> str:
    """The model type that can say most of a configuration."""
    if config.relative_buckets is not None:
        raise ValueError(
            f"Transformers has no decoder-only model with T5's relative position bias "
            f"(DecoderConfig.relative_buckets = {config.relative_buckets}); `ul2tune export t5x` "
            f"writes it for T5X."
        )
    if config.learned_positions:
        return "opt"
    if config.norm == "rms_offset":
        return "gemma3_text" if config.qk_norm else "gemma2"
    if config.qk_norm:
        return "qwen3"
    if config.attention_bias and not config.attention_out_bias:
        return "qwen2"
    return "llama"


def described(config: DecoderConfig, kind: str) -> dict[str, Any]:
    """The fields of config.json that say what `config` is, as far as `kind` has such fields.

    Raises:
      ValueError: for sizes that Transformers does not load.
    """
    _check_sizes(config, kind)
    common = {
        "vocab_size": config.vocab_size,
        "hidden_size": config.d_model,
        "num_hidden_layers": config.num_layers,
        "num_attention_heads": config.num_heads,
        "max_position_embeddings": config.max_length,
        "attention_dropout": config.attention_dropout_rate,
        "tie_word_embeddings": config.tied_logits,
        "bos_token_id": config.start_id,
    }
    if kind == "opt":
        names = {"relu": "relu", "gelu": "gelu_new"}
        return {
            **common,
            "ffn_dim": config.d_ff,
            "activation_function": names.get(config.activation, config.activation),
            "do_layer_norm_before": config.norm_order == "pre",
            "_remove_final_layer_norm": config.norm_order == "pre" and not config.final_norm,
            "enable_bias": config.attention_bias,
            "word_embed_proj_dim": config.embedding_dim or config.d_model,
            "layer_norm_elementwise_affine": True,
            "dropout": config.dropout_rate,
        }
    names = {"silu_gated": "silu", "gelu_gated": "gelu_pytorch_tanh"}
    theirs = {
        **common,
        "num_key_value_heads": config.num_kv_heads,
        "head_dim": config.head_dim,
        "intermediate_size": config.d_ff,
        "rms_norm_eps": config.norm_eps,
        "hidden_act": names.get(config.activation, config.activation),
        **hf_rope.described(config, kind),
    }
    if kind != "qwen2":
        theirs["attention_bias"] = config.attention_bias
    if kind == "llama":
        theirs["mlp_bias"] = config.mlp_bias
    if kind in GEMMA:
        scalar = config.query_scalar or config.head_dim
        theirs |= {
            "hidden_activation": theirs["hidden_act"],
            "query_pre_attn_scalar": int(scalar),
            "attn_logit_softcapping": config.attention_softcap if kind == "gemma2" else None,
            "final_logit_softcapping": config.logit_softcap,
        }
    return theirs


def _check_sizes(config: DecoderConfig, kind: str) -> None:
    """What the configurations of Transformers 5 check, although nothing in the models needs it."""
    if kind in ("llama", *GEMMA) and config.d_model % config.num_heads:
        raise ValueError(
            f"d_model = {config.d_model} is no multiple of num_heads = {config.num_heads}: "
            f"Transformers loads no {kind!r} of such sizes, whatever its head_dim."
        )
    scalar = config.query_scalar or config.head_dim
    if kind in GEMMA and scalar != int(scalar):
        raise ValueError(
            f"query_scalar = {scalar} is no integer: Transformers loads no {kind!r} with such a "
            f"query_pre_attn_scalar."
        )


def plainest(stack: Any) -> Any:
    """A `DecoderConfig` or `t5gemma.StackConfig` without what need not be said; the same model.

    That is: a scale that is the head size, a pattern that is longer than the depth, a rotation of
    local layers that is the others'.
    """
    letters = stack.attention_pattern
    local = [letters[n % len(letters)] == "L" for n in range(stack.num_layers)]
    return dataclasses.replace(
        stack,
        query_scalar=None if stack.query_scalar == stack.head_dim else stack.query_scalar,
        attention_pattern=hf_rope.pattern(local),
        local_rope=None if stack.local_rope == stack.rope else stack.local_rope,
    )


def _check_round_trip(config: DecoderConfig, back: DecoderConfig, kind: str) -> None:
    config, back = plainest(config), plainest(back)
    for field in dataclasses.fields(config):
        ours, theirs = getattr(config, field.name), getattr(back, field.name)
        if field.name not in FREE_FIELDS and ours != theirs:
            raise ValueError(
                f"DecoderConfig.{field.name} = {ours!r} with the rest of this configuration is "
                f"none of Transformers' models: {kind!r}, the closest, has {theirs!r}."
            )
