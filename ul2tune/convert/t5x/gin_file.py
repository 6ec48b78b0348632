"""The few facts of a T5X gin file that shapes do not show, read as text; nothing in it is run.

T5X writes the resolved configuration of a run to MODEL_DIR/config.gin.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping
from typing import Any

from ul2tune.convert.t5x import folders
from ul2tune.models.decoder import DecoderConfig
from ul2tune.models.t5 import T5Config

FILES = ("config.gin", "model.gin")
# T5X's activation functions -> ours.
_ACTIVATIONS = {
    ("relu",): "relu",
    ("gelu",): "gelu",
    ("gelu", "linear"): "gelu_gated",
    ("silu", "linear"): "silu_gated",
    ("swish", "linear"): "silu_gated",
}
# Configurations of T5X's examples; the second is that of `decoder_only`.
_OWNERS = ("T5Config", "TransformerConfig")
_ENCODER_DECODER = (
    "MODEL = @models.EncoderDecoderModel()",
    "models.EncoderDecoderModel:",
    "  module = @network.Transformer()",
    "  input_vocabulary = %VOCABULARY",
    "  output_vocabulary = %VOCABULARY",
    "  optimizer_def = %OPTIMIZER",
    "network.Transformer.config = @network.T5Config()",
    "network.T5Config:",
)
_DECODER_ONLY = (
    "MODEL = @models.DecoderOnlyModel()",
    "models.DecoderOnlyModel:",
    "  module = @network.DecoderWrapper()",
    "  vocabulary = %VOCABULARY",
    "  optimizer_def = %OPTIMIZER",
    "  # Of a prefix-LM: inputs_bidirectional_attention = True",
    "network.DecoderWrapper.config = @network.TransformerConfig()",
    "network.TransformerConfig:",
)
_BINDING = re.compile(r"^([\w./]+)\s*=\s*(\S.*?)\s*(?:#.*)?$", re.MULTILINE)
_SECTION = re.compile(r"^([\w./]+):[ \t]*(?:#.*)?\n((?:[ \t]+.*\n|[ \t]*\n)*)", re.MULTILINE)


def read(path: str) -> dict[str, Any]:
    """Fields of our `T5Config` or `DecoderConfig` from the gin file in a checkpoint's folder or the
    one above it; {} if there is none.

    Raises:
      ValueError: for an activation that we do not have.
    """
    for where in (path, folders.parent(path)[0]):
        folder = folders.open_folder(where)
        for name in FILES:
            text = folder.read(name)
            if text is not None:
                return parse(text.decode("utf-8", "replace"), f"{folder.path}/{name}")
    return {}


def parse(text: str, where: str) -> dict[str, Any]:
    """Our fields from the text of a gin file; what it does not say is left out."""
    text = text.replace("\\\n", " ") + "\n"
    sections = "".join(
        f"{name}.{line.strip()}\n"
        for name, body in _SECTION.findall(text)
        for line in body.splitlines()
        if line.strip() and not line.strip().startswith("#")
    )
    bindings = dict(_BINDING.findall(text) + _BINDING.findall(sections))
    # `network.T5Config.mlp_activations` -> (T5Config, mlp_activations); scopes do not matter here.
    short = {tuple(name.split("/")[-1].split(".")[-2:]): value for name, value in bindings.items()}
    told = {}
    places = [(owner, "mlp_activations") for owner in _OWNERS]
    for owner, key in (*places, ("MlpBlock", "activations")):
        value = _literal(short.get((owner, key)), bindings)
        if value is not None:
            names = tuple(value) if isinstance(value, tuple | list) else (value,)
            if names not in tuple(_ACTIVATIONS):  # values may be lists, which no dict looks up
                raise ValueError(
                    f"{where} sets {owner}.{key} = {value!r}, which no model here computes; known "
                    f"are {sorted(_ACTIVATIONS)}."
                )
            told["activation"] = _ACTIVATIONS[names]
    ours = _literal(short.get(("T5Config", "activation")), bindings)
    if ours in _ACTIVATIONS.values():  # trained by T5X through `integrations.t5x`
        told["activation"] = ours
    for owner in _OWNERS:
        rate = _literal(short.get((owner, "dropout_rate")), bindings)
        if isinstance(rate, int | float):
            told["dropout_rate"] = float(rate)
    return told


def _literal(value: str | None, bindings: Mapping[str, str], depth: int = 8) -> Any:
    """The Python value of a binding, through macros; None for references and for none at all."""
    if value is None or not depth:
        return None
    if value.startswith("%"):
        return _literal(bindings.get(value[1:]), bindings, depth - 1)
    try:
        return ast.literal_eval(value)
    except (ValueError, SyntaxError):
        return None


def text(config: T5Config | DecoderConfig, *, scanned: bool) -> str:
    """A gin file with which T5X builds the model; to be included before a run file."""
    activations = next(key for key, ours in _ACTIVATIONS.items() if ours == config.activation)
    if activations[0] == "silu":
        activations = ("swish", *activations[1:])  # its name among `flax.linen`'s that T5X looks up
    if isinstance(config, DecoderConfig):
        package, settings = "decoder_only", _DECODER_ONLY
        own = {"num_layers": config.num_layers, "head_dim": config.head_dim}
    else:
        package, settings = ("scalable_t5" if scanned else "t5"), _ENCODER_DECODER
        own = {
            "num_encoder_layers": config.num_encoder_layers,
            "num_decoder_layers": config.num_decoder_layers,
            "head_dim": config.d_kv,
        }
    sizes = {
        "vocab_size": config.vocab_size,
        "dtype": config.dtype,
        "emb_dim": config.d_model,
        "num_heads": config.num_heads,
        **own,
        "mlp_dim": config.d_ff,
        "mlp_activations": activations,
        "dropout_rate": config.dropout_rate,
        "logits_via_embedding": config.tied_logits,
        **({"scan_layers": True} if scanned else {}),
    }
    lines = [
        "# The T5 that ul2tune exported beside this file, for T5X.",
        "# Set VOCABULARY and OPTIMIZER, add a run file, point INITIAL_CHECKPOINT_PATH here.",
        "from __gin__ import dynamic_registration",
        "",
        "from t5x import models",
        f"from t5x.examples.{package} import network",
        "",
        "VOCABULARY = %gin.REQUIRED",
        "OPTIMIZER = %gin.REQUIRED",
        *settings,
        *(f"  {name} = {value!r}" for name, value in sizes.items()),
    ]
    return "\n".join(lines) + "\n"
