"""The tensors of Transformers' decoder-only models, and which of our parameters they are."""

from __future__ import annotations

from typing import Any

from ul2tune.convert.mapping import Leaf, linear, numbered, reshaped
from ul2tune.models.decoder import DecoderConfig
from ul2tune.models.layers import ACTIVATIONS

EMBEDDING, HEAD = "embed_tokens.weight", "lm_head.weight"
_PROJECTIONS = {"query": "q_proj", "key": "k_proj", "value": "v_proj"}
# Our module of a layer -> theirs.
_LAYER_OPT = {
    "attention_norm": "self_attn_layer_norm",
    "mlp_norm": "final_layer_norm",
    "mlp/wi": "fc1",
    "mlp/wo": "fc2",
    "attention/out": "self_attn.out_proj",
}
_LAYER = {
    "attention_norm": "input_layernorm",
    "mlp_norm": "post_attention_layernorm",
    "mlp/wi_0": "mlp.gate_proj",
    "mlp/wi_1": "mlp.up_proj",
    "mlp/wo": "mlp.down_proj",
    "attention/out": "self_attn.o_proj",
}
_LAYER_SANDWICH = {
    **_LAYER,
    "attention_post_norm": "post_attention_layernorm",
    "mlp_norm": "pre_feedforward_layernorm",
    "mlp_post_norm": "post_feedforward_layernorm",
}


def table(config: DecoderConfig, prefix: str, *, opt: bool) -> tuple[Leaf, ...]:
    """All leaves of a model.

    Args:
      config: of the model.
      prefix: what names of the decoder begin with: "model.", "model.decoder." (OPT), "" for the
        bare model, "language_model.model." and the like in Gemma 3 with images.
      opt: whether they are OPT's names.
    """
    d, e = config.d_model, config.embedding_dim or config.d_model
    embedding, head = prefix + EMBEDDING, _head(prefix)
    found = [
        Leaf(
            path="token_embedding",
            names=(embedding,),
            aliases=(head,) if config.tied_logits else (),
        )
    ]
    if not config.tied_logits:
        found.append(Leaf(path="head", names=(head,)))
    if config.learned_positions:
        name = f"{prefix}embed_positions.weight"
        found.append(Leaf(path="position_embedding", names=(name,)))
    if config.embedding_dim is not None:
        for name, sides in (("project_in", ((e,), (d,))), ("project_out", ((d,), (e,)))):
            found.append(Leaf(path=name, names=(f"{prefix}{name}.weight",), **linear(*sides)))
    if config.final_norm:
        name = prefix + ("final_layer_norm" if opt else "norm")
        found += [
            Leaf(path=f"final_norm/{ours}", names=(f"{name}.{theirs}",))
            for ours, theirs in _norm(config)
        ]
    return (*found, *_layers(config, prefix, opt))


def _head(prefix: str) -> str:
    """Beside the module that `prefix` names, outside of what it is in."""
    outer = prefix.removesuffix("decoder.").removesuffix("model.")
    return HEAD if outer == "model.language_" else outer + HEAD


def _norm(config: DecoderConfig) -> list[tuple[str, str]]:
    """Our and their parameters of a norm."""
    return [("scale", "weight"), *([("bias", "bias")] if config.norm == "layer" else [])]


def _layers(config: DecoderConfig, prefix: str, opt: bool) -> list[Leaf]:
    d, f = config.d_model, config.d_ff
    heads, shared = (config.num_heads, config.head_dim), (config.num_kv_heads, config.head_dim)
    sandwich = config.norm_order == "sandwich"
    names = _LAYER_OPT if opt else _LAYER_SANDWICH if sandwich else _LAYER
    found: list[Leaf] = []

    def add(path: str, name: str, **convert: Any) -> None:
        pattern = f"{prefix}layers.{{}}.{name}"
        tensors = numbered(pattern, config.num_layers)
        found.append(Leaf(path=f"layers/{path}", names=tensors, stacked=True, **convert))

    def product(path: str, name: str, inputs: tuple, outputs: tuple, bias: bool) -> None:
        add(path, f"{name}.weight", **linear(inputs, outputs))
        if bias:
            flat = (outputs[0] * outputs[1],) if len(outputs) == 2 else outputs
            add(f"{path}_bias", f"{name}.bias", **reshaped(flat, outputs))

    for ours, theirs in _PROJECTIONS.items():
        outputs = heads if ours == "query" else shared
        name = f"self_attn.{theirs}"
        product(f"attention/{ours}", name, (d,), outputs, config.attention_bias)
    product("attention/out", names["attention/out"], heads, (d,), config.attention_out_bias)
    gated = ACTIVATIONS[config.activation][1]
    for path in ("mlp/wi_0", "mlp/wi_1") if gated else ("mlp/wi",):
        product(path, names[path], (d,), (f,), config.mlp_bias)
    product("mlp/wo", names["mlp/wo"], (f,), (d,), config.mlp_bias)
    if config.qk_norm:
        add("attention/query_norm/scale", "self_attn.q_norm.weight")
        add("attention/key_norm/scale", "self_attn.k_norm.weight")
    norms = ["attention_norm", "mlp_norm"]
    norms += ["attention_post_norm", "mlp_post_norm"] if sandwich else []
    for norm in norms:
        for ours, theirs in _norm(config):
            add(f"{norm}/{ours}", f"{names[norm]}.{theirs}")
    return found
