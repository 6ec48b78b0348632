"""Transformers' ``t5gemma`` and the text part of ``t5gemma2``.

Read against Transformers 5.23 (`models/{t5gemma,t5gemma2}/`). A stack's part of config.json is that
of a Gemma 2 or 3 and is read as such (`hf.decoder`). The part of a T5Gemma 2 for images is
not represented: its tensors are refused, or left out with `open_model(text_only=True)`. Only
what reads back as the same configuration is exported.

Names: Transformers calls T5Gemma 2's text encoder ``encoder.text_model`` and writes ``encoder``
into files; it reads both, and so do we.

Axes: D model, F mlp, H heads, K key/value heads, A head size, V vocabulary.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from ul2tune.convert.hf import decoder as hf_decoder
from ul2tune.convert.hf.fields import Fields
from ul2tune.convert.mapping import Family, Leaf, Tensors, linear, numbered, reshaped
from ul2tune.models.base import FREE_FIELDS
from ul2tune.models.t5gemma import SIDES, StackConfig, T5GemmaConfig

# model_type -> (of the Gemma that a stack is, class, model_type of a stack's part)
_KINDS = {
    "t5gemma": ("gemma2", "T5GemmaForConditionalGeneration", ("t5_gemma_module",) * 2),
    "t5gemma2": (
        "gemma3_text",
        "T5Gemma2ForConditionalGeneration",
        ("t5gemma2_text", "t5gemma2_decoder"),
    ),
}
# What config.json may leave out of a stack.
_DEFAULTS = {
    "hidden_size": 2304,
    "intermediate_size": 9216,
    "num_hidden_layers": 26,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 256,
    "bos_token_id": 2,
}
_SIZES = {
    "t5gemma": {"vocab_size": 256_000, "max_position_embeddings": 8192},
    "t5gemma2": {"vocab_size": 262_208, "max_position_embeddings": 131_072},
}
EOI_ID = 256_000
HEAD, EMBEDDING, EOI = (
    "lm_head.out_proj.weight",
    "embed_tokens.weight",
    "embed_tokens.eoi_embedding",
)
# What :meth:`T5GemmaFamily.observe` adds.
_TIED, _PREFIX, _ENCODER = "ul2tune_tied_logits", "ul2tune_prefix", "ul2tune_encoder"
_OBSERVED = (_TIED, _PREFIX, _ENCODER)


class T5GemmaFamily(Family):
    """See the module's documentation."""

    model_types = tuple(_KINDS)
    config_type = T5GemmaConfig
    ignored = (r".*rotary_emb\..*inv_freq",)
    parts = (r"(model\.)?encoder\.(vision_tower|multi_modal_projector)\..*",)

    def observe(self, hf: Mapping[str, Any], tensors: Tensors) -> Mapping[str, Any]:
        """Adds whether the head is the embedding, and what names begin with."""
        prefix = "model." if any(name.startswith("model.") for name in tensors.names) else ""
        text = any(name.startswith(f"{prefix}encoder.text_model.") for name in tensors.names)
        embedding = f"{prefix}decoder.{EMBEDDING}"
        tied = hf.get("tie_word_embeddings", True)
        if tied and {HEAD, embedding} <= set(tensors.names):
            # Transformers 5 uses a head that differs, whatever config.json says.
            tied = tensors.equal(HEAD, embedding)
        encoder = "encoder.text_model." if text else "encoder."
        return {**hf, _TIED: tied, _PREFIX: prefix, _ENCODER: encoder}

    def config_from_hf(self, hf: Mapping[str, Any]) -> T5GemmaConfig:
        fields = Fields(hf)
        kind = fields.one_of("model_type", tuple(_KINDS))
        fields.expect("is_encoder_decoder", True)
        parts = {side: _part(hf, side) for side in SIDES}
        decoder = Fields(parts["decoder"])
        rows = decoder.positive("vocab_size")
        if Fields(parts["encoder"]).positive("vocab_size") != rows:
            raise Fields(parts["encoder"]).error("vocab_size", f"another than the decoder's {rows}")
        tied = fields.boolean("tie_word_embeddings", True)
        start = decoder.values["bos_token_id"]
        if type(start) is not int or start < 0:
            raise decoder.error("bos_token_id", "anything but an id is")
        is_2 = kind == "t5gemma2"
        return T5GemmaConfig(
            vocab_size=rows,
            encoder=_stack(kind, parts["encoder"], bidirectional=True),
            decoder=_stack(kind, parts["decoder"], bidirectional=False),
            merged_attention=is_2,
            qk_norm=is_2,
            tied_embeddings=is_2 and tied,
            tied_logits=fields.boolean(_TIED, tied),
            logit_softcap=_gemma(kind, parts["decoder"])["logit_softcap"],
            start_id=start,
            eoi_id=_eoi_id(hf) if is_2 else None,
            dropout_rate=fields.number("dropout_rate", 0.0),
            attention_dropout_rate=fields.number("attention_dropout", 0.0),
        )

    def config_to_hf(self, config: T5GemmaConfig, like: Mapping[str, Any]) -> dict[str, Any]:
        kind = "t5gemma2" if config.merged_attention else "t5gemma"
        same = like.get("model_type") == kind
        kept = {k: v for k, v in like.items() if same and k not in _OBSERVED}
        theirs = {
            **kept,
            "model_type": kind,
            "architectures": [_KINDS[kind][1]],
            "is_encoder_decoder": True,
            "vocab_size": config.vocab_size,
            "tie_word_embeddings": config.tied_logits,
            "bos_token_id": config.start_id,
            "dropout_rate": config.dropout_rate,
            "attention_dropout": config.attention_dropout_rate,
        }
        encoder, decoder = (_described(config, side, kept) for side in SIDES)
        if kind == "t5gemma2":
            outer = dict(kept.get("encoder") or {})
            outer |= {"model_type": "t5gemma2_encoder", "eoi_token_index": config.eoi_id}
            theirs |= {"encoder": {**outer, "text_config": encoder}, "decoder": decoder}
            theirs["eoi_token_index"] = config.eoi_id
        else:
            decoder["cross_attention_hidden_size"] = config.encoder.d_model
            theirs |= {"encoder": encoder, "decoder": decoder}
        _check_round_trip(config, self.config_from_hf(theirs), kind)
        return theirs

    def leaves(self, config: T5GemmaConfig, hf: Mapping[str, Any]) -> tuple[Leaf, ...]:
        prefix = hf.get(_PREFIX, "model.")
        modules = {"encoder": prefix + hf.get(_ENCODER, "encoder."), "decoder": f"{prefix}decoder."}
        found = _embeddings(config, modules)
        for side in SIDES:
            norm = f"{modules[side]}norm.weight"
            found.append(Leaf(path=f"{side}/final_norm/scale", names=(norm,)))
            found += _layers(config, side, modules[side])
        return tuple(found)


def _part(hf: Mapping[str, Any], side: str) -> dict[str, Any]:
    """A stack's part of config.json, complete."""
    kind, part = hf["model_type"], hf.get(side)
    if not isinstance(part, Mapping):
        raise Fields(hf).error(side, "anything but an object is")
    if kind == "t5gemma2" and side == "encoder":
        part = part.get("text_config")
        if not isinstance(part, Mapping):
            raise Fields(hf[side]).error("text_config", "anything but an object is")
    return {**_DEFAULTS, **_SIZES[kind], **part}


def _gemma(kind: str, part: Mapping[str, Any]) -> dict[str, Any]:
    """What a stack's part says as a Gemma's config.json, as fields of our `DecoderConfig`."""
    fields = Fields(part)
    num_layers = fields.layers("num_hidden_layers")
    return {
        **hf_decoder.rotary_model(fields, _KINDS[kind][0]),
        "d_model": fields.positive("hidden_size"),
        "num_layers": num_layers,
        "num_heads": fields.positive("num_attention_heads"),
    }


def _stack(kind: str, part: Mapping[str, Any], *, bidirectional: bool) -> StackConfig:
    values = _gemma(kind, part)
    names = {field.name for field in dataclasses.fields(StackConfig)}
    values = {name: value for name, value in values.items() if name in names}
    window = values["sliding_window"]
    if window is not None and bidirectional:
        left, right = _both_sides(kind, window)
        values |= {"sliding_window": left, "right_window": None if right == left else right}
    return StackConfig(**values)


def _both_sides(kind: str, window: int) -> tuple[int, int]:
    """How far an encoder sees to the left and to the right, its own position included.

    T5Gemma's ``sliding_window`` is the largest distance on both sides, T5Gemma 2's the tokens of
    both sides together.
    """
    return (window + 1, window + 1) if kind == "t5gemma" else ((window + 1) // 2, window // 2 + 1)


def _window(kind: str, stack: StackConfig) -> int:
    """The inverse of :func:`_both_sides`.

    Raises:
      ValueError: for a window that a config.json which we read does not have.
    """
    left = stack.sliding_window
    assert left is not None, stack
    if kind == "t5gemma" and left == 1:
        raise ValueError(
            "T5GemmaConfig.encoder.sliding_window = 1 (a token sees only itself) cannot be "
            "exported: config.json of a 't5gemma' has the largest distance there, which would be 0."
        )
    right = left if stack.right_window is None else stack.right_window
    return left - 1 if kind == "t5gemma" else left + right - 1


def _eoi_id(hf: Mapping[str, Any]) -> int:
    fields = Fields(hf["encoder"])
    value = fields.values.get("eoi_token_index", EOI_ID)
    if type(value) is not int or value < 0:
        raise fields.error("eoi_token_index", "anything but an id is")
    return value


def _described(config: T5GemmaConfig, side: str, kept: Mapping[str, Any]) -> dict[str, Any]:
    """A stack's part of config.json."""
    kind = "t5gemma2" if config.merged_attention else "t5gemma"
    gemma, _, types = _KINDS[kind]
    part = _part({**kept, "model_type": kind}, side) if kept else {}
    stale = ("rope_scaling", "rope_parameters", "sliding_window_pattern", "_sliding_window_pattern")
    part = {name: value for name, value in part.items() if name not in stale}
    part |= hf_decoder.described(config.gemma(side), gemma)
    del part["hidden_act"]
    if side == "encoder" and config.encoder.sliding_window is not None:
        part["sliding_window"] = _window(kind, config.encoder)
    if part.get("sliding_window", 0) is None:
        del part["sliding_window"]
    decoder = side == "decoder"
    part["model_type"] = types[decoder]
    return {**part, "is_decoder": decoder} if kind == "t5gemma" else part


def _check_round_trip(config: T5GemmaConfig, back: T5GemmaConfig, kind: str) -> None:
    for name, ours, theirs in _differences(config, back):
        raise ValueError(
            f"T5GemmaConfig.{name} = {ours!r} with the rest of this configuration is none of "
            f"Transformers' models: {kind!r}, the closest, has {theirs!r}."
        )


def _differences(config: Any, back: Any, prefix: str = "") -> list[tuple[str, Any, Any]]:
    found = []
    for field in dataclasses.fields(config):
        ours, theirs = getattr(config, field.name), getattr(back, field.name)
        if field.name in SIDES:
            ours, theirs = hf_decoder.plainest(ours), hf_decoder.plainest(theirs)
            found += _differences(ours, theirs, f"{field.name}.")
        elif field.name not in FREE_FIELDS and ours != theirs:
            found.append((prefix + field.name, ours, theirs))
    return found


def _embeddings(config: T5GemmaConfig, modules: Mapping[str, str]) -> list[Leaf]:
    """The table, of one stack or both, and what goes with it; the head."""
    encoder, decoder = modules["encoder"], modules["decoder"]
    head = (HEAD,) if config.tied_logits else ()
    both = config.tied_embeddings

    def leaf(path: str, name: str, aliases: tuple[str, ...] = ()) -> Leaf:
        return Leaf(path=path, names=(name,), aliases=aliases)

    shared = (decoder + EMBEDDING, *head) if both else ()
    found = [leaf("token_embedding", encoder + EMBEDDING, shared)]
    if not both:
        found.append(leaf("decoder_token_embedding", decoder + EMBEDDING, head))
    if not config.tied_logits:
        found.append(leaf("head", HEAD))
    if config.eoi_id is not None:
        found.append(leaf("eoi_embedding", encoder + EOI, (decoder + EOI,) if both else ()))
        if not both:
            found.append(leaf("decoder_eoi_embedding", decoder + EOI))
    return found


_PROJECTIONS = {"query": "q_proj", "key": "k_proj", "value": "v_proj", "out": "o_proj"}
_MLP = {"wi_0": "gate_proj", "wi_1": "up_proj", "wo": "down_proj"}


def _layers(config: T5GemmaConfig, side: str, module: str) -> list[Leaf]:
    stack: StackConfig = getattr(config, side)
    d, f = stack.d_model, stack.d_ff
    heads, shared = (stack.num_heads, stack.head_dim), (stack.num_kv_heads, stack.head_dim)
    found: list[Leaf] = []

    def add(path: str, name: str, **convert: Any) -> None:
        names = numbered(f"{module}layers.{{}}.{name}", stack.num_layers)
        found.append(Leaf(path=f"{side}/layers/{path}", names=names, stacked=True, **convert))

    def attention(ours: str, theirs: str, source: int) -> None:
        sides = {
            "query": ((d,), heads),
            "key": ((source,), shared),
            "value": ((source,), shared),
            "out": (heads, (d,)),
        }
        for name, external in _PROJECTIONS.items():
            inputs, outputs = sides[name]
            add(f"{ours}/{name}", f"{theirs}.{external}.weight", **linear(inputs, outputs))
            if stack.attention_bias:
                flat = (outputs[0] * outputs[1],) if len(outputs) == 2 else outputs
                add(f"{ours}/{name}_bias", f"{theirs}.{external}.bias", **reshaped(flat, outputs))
        if config.qk_norm:
            add(f"{ours}/query_norm/scale", f"{theirs}.q_norm.weight")
            add(f"{ours}/key_norm/scale", f"{theirs}.k_norm.weight")
        add(f"{ours}_norm/scale", f"pre_{theirs}_layernorm.weight")
        add(f"{ours}_post_norm/scale", f"post_{theirs}_layernorm.weight")

    attention("attention", "self_attn", d)
    if side == "decoder" and not config.merged_attention:
        attention("cross_attention", "cross_attn", config.encoder.d_model)
    for name, external in _MLP.items():
        inputs, outputs = ((f,), (d,)) if name == "wo" else ((d,), (f,))
        add(f"mlp/{name}", f"mlp.{external}.weight", **linear(inputs, outputs))
    add("mlp_norm/scale", "pre_feedforward_layernorm.weight")
    add("mlp_post_norm/scale", "post_feedforward_layernorm.weight")
    return found
