"""Transformers' ``t5``, ``mt5`` and ``umt5``: T5 1.0, 1.1, LM-adapted, Flan, ByT5, mT5, umT5, UL2.

Whether logits come from the token embedding and whether they are scaled by ``d_model ** -0.5`` are
two questions, and ``tie_word_embeddings`` in config.json answers neither alone (Transformers 5.23,
`models/*t5/{configuration,modeling}_*t5.py`, `PreTrainedModel.tie_weights`):

    tied     if the files hold no ``lm_head.weight``, or one bit-equal to ``shared.weight`` while
             config.json does not say false. T5Config always claims to tie, and what is saved then
             says true of T5 1.1 as well; a head that differs is used untied all the same.
    scaled   t5: ``scale_decoder_outputs`` if there (Transformers 5 writes it), else unless
             ``tie_word_embeddings`` is false. mt5: never. umt5: unless it is false.

DIVERGES: Transformers 5 scales umT5's logits even if config.json says ``tie_word_embeddings:
false``, as the published umT5 do, which were trained without (and Transformers 4 does not). We
follow the file: logits differ by that factor, greedy generation does not.

Axes: D model, F mlp, H heads, A head size, V vocabulary.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from ul2tune.convert.hf.fields import Fields
from ul2tune.convert.mapping import Family, Leaf, Tensors, linear, numbered, transposed
from ul2tune.models.layers import ACTIVATIONS
from ul2tune.models.t5 import T5Config

log = logging.getLogger(__name__)
HEAD, EMBEDDING = "lm_head.weight", "shared.weight"
# Ours -> (Transformers' activation, gated). "gelu" there is the exact one, which T5 never uses.
_ACTIVATIONS = {
    "relu": ("relu", False),
    "gelu": ("gelu_new", False),
    "gelu_gated": ("gelu_new", True),
    "silu_gated": ("silu", True),
}
assert _ACTIVATIONS.keys() == ACTIVATIONS.keys()
_FEED_FORWARD = {
    "relu": "relu",
    "gelu": "gelu_new",
    "gelu_gated": "gated-gelu",
    "silu_gated": "gated-silu",
}
# Our field -> theirs, where the meaning is the same; and theirs where config.json may leave it out.
_SAME = {
    "vocab_size": "vocab_size",
    "d_model": "d_model",
    "d_kv": "d_kv",
    "d_ff": "d_ff",
    "num_heads": "num_heads",
    "relative_buckets": "relative_attention_num_buckets",
    "relative_max_distance": "relative_attention_max_distance",
}
_DEFAULTS = {
    "d_kv": 64,
    "relative_attention_num_buckets": 32,
    "relative_attention_max_distance": 128,
}
# What :meth:`T5Family.observe` adds.
_TIED = "ul2tune_tied_logits"


class T5Family(Family):
    """See the module's documentation."""

    model_types = ("t5", "mt5", "umt5")
    config_type = T5Config
    # Mesh-TF's converter wrote it; cross-attention has no bias.
    ignored = (r"decoder\.block\.0\.layer\.1\.EncDecAttention\.relative_attention_bias\.weight",)

    def observe(self, hf: Mapping[str, Any], tensors: Tensors) -> Mapping[str, Any]:
        says = hf.get("tie_word_embeddings")
        if HEAD not in tensors.names:
            # False and no head is a file that lost it: a missing tensor, reported as such.
            return {**hf, _TIED: says is not False or "scale_decoder_outputs" in hf}
        equal = EMBEDDING in tensors.names and tensors.equal(HEAD, EMBEDDING)
        return {**hf, _TIED: says is not False and equal}

    def config_from_hf(self, hf: Mapping[str, Any]) -> T5Config:
        fields = Fields(hf)
        kind = fields.one_of("model_type", self.model_types)
        fields.expect("is_encoder_decoder", True)
        fields.expect("is_decoder", False)
        fields.expect("pad_token_id", 0)
        fields.expect("eos_token_id", 1)
        fields.expect("decoder_start_token_id", 0)
        layers = fields.layers("num_layers")
        decoder_layers = hf.get("num_decoder_layers")
        shape: dict[str, Any] = {
            ours: fields.positive(name, _DEFAULTS.get(name)) for ours, name in _SAME.items()
        }
        says = fields.boolean("tie_word_embeddings", True)
        if kind == "mt5":
            scaled = False
        else:
            scaled = fields.boolean("scale_decoder_outputs", says) if kind == "t5" else says
        return T5Config(
            **shape,
            num_encoder_layers=layers,
            num_decoder_layers=(
                layers if decoder_layers is None else fields.layers("num_decoder_layers")
            ),
            activation=_activation(fields, "relu" if kind == "t5" else "gated-gelu"),
            tied_logits=fields.boolean(_TIED, says),
            scale_logits=scaled,
            per_layer_relative_bias=kind == "umt5",
            dropout_rate=fields.number("dropout_rate", 0.1),
            layer_norm_eps=fields.number("layer_norm_epsilon", 1e-6),
        )

    def config_to_hf(self, config: T5Config, like: Mapping[str, Any]) -> dict[str, Any]:
        kind = like.get("model_type", "t5")
        if config.per_layer_relative_bias:
            kind = "umt5"
        elif kind == "umt5" or (kind == "mt5" and config.scale_logits):
            kind = "t5"  # says everything but a bias per layer
        if kind == "umt5":
            _check_umt5(config)
        name, gated = _ACTIVATIONS[config.activation]
        # False is what every version of Transformers reads as "do not scale", and versions before 5
        # as "do not tie"; version 5 looks at the files for that.
        ties = {
            "t5": config.tied_logits or config.scale_logits,
            "mt5": config.tied_logits,
            "umt5": config.scale_logits,
        }
        theirs = {
            **{key: value for key, value in like.items() if key != _TIED},
            "model_type": kind,
            "architectures": [_ARCHITECTURES[kind]],
            **{name: getattr(config, ours) for ours, name in _SAME.items()},
            "num_layers": config.num_encoder_layers,
            "num_decoder_layers": config.num_decoder_layers,
            "feed_forward_proj": _FEED_FORWARD[config.activation],
            "dense_act_fn": name,
            "is_gated_act": gated,
            "dropout_rate": config.dropout_rate,
            "layer_norm_epsilon": config.layer_norm_eps,
            "tie_word_embeddings": ties[kind],
            "is_encoder_decoder": True,
            "pad_token_id": 0,
            "eos_token_id": 1,
            "decoder_start_token_id": 0,
        }
        theirs.pop("scale_decoder_outputs", None)
        if kind == "t5":
            theirs["scale_decoder_outputs"] = config.scale_logits
        return theirs

    def leaves(self, config: T5Config, hf: Mapping[str, Any]) -> tuple[Leaf, ...]:
        del hf
        copies = ("encoder.embed_tokens.weight", "decoder.embed_tokens.weight")
        if config.tied_logits:
            copies = (*copies, HEAD)
        found = [Leaf(path="token_embedding", names=(EMBEDDING,), aliases=copies)]
        if not config.tied_logits:
            found.append(Leaf(path="head", names=(HEAD,)))
        return (*found, *_stack(config, "encoder"), *_stack(config, "decoder"))


_ARCHITECTURES = {
    "t5": "T5ForConditionalGeneration",
    "mt5": "MT5ForConditionalGeneration",
    "umt5": "UMT5ForConditionalGeneration",
}


def _activation(fields: Fields, default: str) -> str:
    """Ours for ``feed_forward_proj``, which ``dense_act_fn`` and ``is_gated_act`` override."""
    text = fields.text("feed_forward_proj", default)
    gate, _, name = text.rpartition("-")
    name = "gelu_new" if text == "gated-gelu" else name
    found = (fields.text("dense_act_fn", name), fields.boolean("is_gated_act", gate == "gated"))
    for ours, theirs in _ACTIVATIONS.items():
        if theirs == found and gate in ("", "gated"):
            return ours
    raise fields.error("feed_forward_proj", f"activation {found[0]!r} (gated: {found[1]}) is")


def _check_umt5(config: T5Config) -> None:
    """Warns of what versions read differently, refuses what none has."""
    if config.tied_logits and not config.scale_logits:
        # false would call for a head, true for scaled logits; there is no other field.
        raise ValueError(
            "T5Config.scale_logits = False with tied_logits and per_layer_relative_bias is none of "
            "Transformers' models: a umT5 that ties its logits scales them."
        )
    if config.scale_logits and not config.tied_logits:
        log.warning("Transformers before 5 ties umT5's head to the embedding and ignores the head.")
    elif not config.scale_logits:
        log.warning(
            "Transformers 5 scales umT5's logits by d_model ** -0.5 whatever config.json says; "
            "this model does not. Greedy generation is the same, probabilities are not."
        )


def _stack(config: T5Config, side: str) -> list[Leaf]:
    """The leaves of the encoder or the decoder."""
    count = config.num_layers(decoder=side == "decoder")
    d, f, heads = config.d_model, config.d_ff, (config.num_heads, config.d_kv)
    found: list[Leaf] = []

    def add(path: str, name: str, **convert: Any) -> None:
        names = numbered(f"{side}.block.{{}}.layer.{name}.weight", count)
        found.append(Leaf(path=f"{side}/layers/{path}", names=names, stacked=True, **convert))

    def attention(path: str, sublayer: int, name: str) -> None:
        for ours, theirs in (("query", "q"), ("key", "k"), ("value", "v")):
            add(f"{path}/{ours}", f"{sublayer}.{name}.{theirs}", **linear((d,), heads))
        add(f"{path}/out", f"{sublayer}.{name}.o", **linear(heads, (d,)))
        add(f"{path}_norm", f"{sublayer}.layer_norm")

    attention("self_attention", 0, "SelfAttention")
    last = 1
    if side == "decoder":
        attention("cross_attention", 1, "EncDecAttention")
        last = 2
    gated = ACTIVATIONS[config.activation][1]
    for name in ("wi_0", "wi_1") if gated else ("wi",):
        add(f"mlp/{name}", f"{last}.DenseReluDense.{name}", **linear((d,), (f,)))
    add("mlp/wo", f"{last}.DenseReluDense.wo", **linear((f,), (d,)))
    add("mlp_norm", f"{last}.layer_norm")
    bias = "0.SelfAttention.relative_attention_bias"
    if config.per_layer_relative_bias:
        add("relative_bias", bias, **transposed())
    else:
        name = f"{side}.block.0.layer.{bias}.weight"
        found.append(Leaf(path=f"{side}/relative_bias", names=(name,), **transposed()))
    found.append(Leaf(path=f"{side}/final_norm", names=(f"{side}.final_layer_norm.weight",)))
    return found
