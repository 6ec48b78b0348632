"""T5X's decoder-only example: what it calls its parameters, and which model a checkpoint holds.

Everything is under ``decoder/``, named and laid out as in a plain T5's decoder, without
cross-attention (`names` has the layouts). Reference: T5X's `examples/decoder_only/network.py` at
cc342d4; UL2's decoder-only baselines (Tay et al. 2022, arXiv:2205.05131) are of this kind.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from ul2tune.convert.mapping import numbered
from ul2tune.convert.t5x.axes import LAYERS, Axes
from ul2tune.convert.t5x.names import (
    BIAS,
    DECODER_NORM,
    HEAD,
    KERNELS,
    Layout,
    Weight,
    depth,
    mlp_kernels,
)
from ul2tune.models.decoder import DecoderConfig

EMBEDDING = "decoder/token_embedder/embedding"
RELATIVE_BIAS = "decoder/relpos_bias/rel_embedding"
QUERY = "decoder/layers_0/self_attention/query/kernel"
# T5X has no limit; relative positions know none either. `--set max_length=…` sets another.
MAX_LENGTH = 2**15
# What T5X's example is, and shapes do not show.
FIXED: Mapping[str, Any] = {
    "norm": "rms",
    "norm_order": "pre",
    "final_norm": True,
    "norm_eps": 1e-6,
    "qk_norm": False,
    "attention_bias": False,
    "attention_out_bias": False,
    "mlp_bias": False,
    "relative_max_distance": 128,
    "query_scalar": 1.0,
    "attention_softcap": None,
    "logit_softcap": None,
    "sliding_window": None,
    "embedding_dim": None,
    "scale_embeddings": False,
    "start_id": 0,
}


def is_decoder_only(names: Collection[str]) -> bool:
    """Whether parameters (names without ``target/``) are those of a model without an encoder."""
    return not any(name.startswith(("encoder/", "token_embedder/")) for name in names)


def weights(config: DecoderConfig, layout: Layout) -> tuple[Weight, ...]:
    """The table: every parameter of `config` once."""
    sizes = {
        "embed": config.d_model,
        "heads": config.num_heads,
        "kv": config.head_dim,
        "mlp": config.d_ff,
        "vocab": config.vocab_size,
        "relpos_buckets": config.relative_buckets or 0,
        LAYERS: config.num_layers,
    }

    def single(path: str, axes: Axes, name: str, their_axes: Axes | None = None) -> Weight:
        theirs = their_axes or axes
        return Weight(path=path, axes=axes, names=(name,), their_axes=theirs, sizes=sizes)

    table = [
        single("token_embedding", ("vocab", "embed"), EMBEDDING),
        single("relative_bias", BIAS, RELATIVE_BIAS),
        single("final_norm/scale", ("embed",), DECODER_NORM),
    ]
    if not config.tied_logits:
        table.append(single("head", ("vocab", "embed"), HEAD, ("embed", "vocab")))
    for path, (axes, name, theirs) in _block(config, layout).items():
        names = numbered(f"decoder/layers_{{}}/{name}", config.num_layers)
        axes = (LAYERS, *axes)
        table.append(
            Weight(path=f"layers/{path}", axes=axes, names=names, their_axes=theirs, sizes=sizes)
        )
    return tuple(table)


def _block(config: DecoderConfig, layout: Layout) -> dict[str, tuple[Axes, str, Axes]]:
    """Of one layer: our path -> (our axes, T5X's name, T5X's axes)."""
    norm = ("embed",)
    table: dict[str, tuple[Axes, str, Axes]] = {
        "attention_norm/scale": (norm, "pre_self_attention_layer_norm/scale", norm),
        "mlp_norm/scale": (norm, "pre_mlp_layer_norm/scale", norm),
    }
    for kernel, (axes, joined) in KERNELS.items():
        theirs = axes if layout.split_heads else joined
        table[f"attention/{kernel}"] = (axes, f"self_attention/{kernel}/kernel", theirs)
    return {**table, **mlp_kernels(config.activation)}


def config_from(
    shapes: Mapping[str, tuple[int, ...]], told: Mapping[str, Any]
) -> tuple[DecoderConfig, Layout]:
    """Infers the configuration from names (without ``target/``) and shapes.

    Args:
      shapes: of all parameters.
      told: fields of `DecoderConfig` known from elsewhere.

    Raises:
      ValueError: for another model.
    """
    gated = any(name.endswith("/mlp/wi_0/kernel") for name in shapes)
    mlp = f"decoder/layers_0/mlp/{'wi_0' if gated else 'wi'}/kernel"
    for name in (QUERY, EMBEDDING, RELATIVE_BIAS, mlp):
        if name not in shapes:
            raise ValueError(
                f"The checkpoint holds no encoder and no {name!r}, so it is neither a T5 nor T5X's "
                f"decoder-only example; it cannot be imported."
            )
        ranks = (2, 3) if name == QUERY else (2,)
        if len(shapes[name]) not in ranks:
            raise ValueError(f"{name!r} has the shape {shapes[name]}, not of rank {ranks}.")
    layout = Layout(split_heads=len(shapes[QUERY]) == 3)
    (vocab_size, d_model), (heads, buckets) = shapes[EMBEDDING], shapes[RELATIVE_BIAS]
    width = shapes[QUERY][-2] * shapes[QUERY][-1] if layout.split_heads else shapes[QUERY][-1]
    if not heads or width % heads:
        raise ValueError(f"Kernels [{d_model}, {width}] do not divide into {heads} heads.")
    known = {
        **FIXED,
        "vocab_size": vocab_size,
        "d_model": d_model,
        "num_layers": depth(shapes, "decoder"),
        "num_heads": heads,
        "num_kv_heads": heads,
        "head_dim": width // heads,
        "d_ff": shapes[mlp][-1],
        "max_length": MAX_LENGTH,
        "activation": "gelu_gated" if gated else "relu",
        "relative_buckets": buckets,
        "tied_logits": HEAD not in shapes,
        "scale_logits": HEAD not in shapes,
    }
    return DecoderConfig(**{**known, **told}), layout


def check_representable(config: DecoderConfig, layout: str) -> None:
    """Raises ValueError, naming what T5X's example does not have."""
    if config.relative_buckets is None:
        raise ValueError(
            "T5X has no decoder-only model without T5's relative position bias "
            "(DecoderConfig.relative_buckets = None): this one cannot be exported."
        )
    expected = {
        **FIXED,
        "relative_buckets": 32,
        "num_kv_heads": config.num_heads,
        "scale_logits": config.tied_logits,
    }
    for field, value in expected.items():
        if getattr(config, field) != value:
            raise ValueError(
                f"T5X's decoder-only example has no {field} = {getattr(config, field)!r} "
                f"(tied_logits = {config.tied_logits}): it is {value!r} there. This model cannot "
                f"be exported."
            )
    if layout != "plain":
        raise ValueError(
            f"T5X has no layout {layout!r} of a decoder-only model: export it in the layout "
            f"'plain'."
        )


def facts(config: DecoderConfig) -> str:
    """The model in words, for messages."""
    return (
        f"a decoder-only T5 with d_model {config.d_model}, {config.num_heads} heads of "
        f"{config.head_dim}, d_ff {config.d_ff}, {config.num_layers} layers and "
        f"{config.activation!r}"
    )
