"""What T5X calls the parameters of a T5, in each of its layouts, and which T5 a checkpoint holds.

Layouts (E = embed, H = heads, D = head size, L = layers):

                                       names of layers       query kernel    out kernel
    plain: `examples/t5`, flaxformer   encoder/layers_3/…    [E, H*D]        [H*D, E]
    split: flaxformer split_head_kernel  "                   [E, H, D]       [H, D, E]
    scanned: `examples/scalable_t5`    encoder/encoder/…     [E, L, H, D]    [H, L, D, E]
    scanned, joined: flaxformer        "                     [E, L, H*D]     [H*D, L, E]

T5 1.0, 1.1, LM-adapted, mT5, ByT5, Flan-T5 and UL2 are plain, umT5 is scanned. Models without an
encoder are in `decoder_only`. Reference: T5X's `examples/t5/network.py` and
`examples/scalable_t5/network.py` at cc342d4.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from ul2tune.convert.mapping import Arrays, Leaf, numbered
from ul2tune.convert.t5x.axes import LAYERS, Axes, rearrange, shape
from ul2tune.models.t5 import T5Config

TARGET = "target/"
EMBEDDING, HEAD = "token_embedder/embedding", "decoder/logits_dense/kernel"
DECODER_NORM = "decoder/decoder_norm/scale"
_SELF = {"encoder": "attention", "decoder": "self_attention"}
# Kernel of attention -> its axes with heads split, and joined.
_INPUT = (("embed", "heads", "kv"), ("embed", "heads*kv"))
_OUTPUT = (("heads", "kv", "embed"), ("heads*kv", "embed"))
KERNELS = {"query": _INPUT, "key": _INPUT, "value": _INPUT, "out": _OUTPUT}
BIAS = ("heads", "relpos_buckets")


@dataclass(frozen=True, kw_only=True)
class Layout:
    """How a T5X model lays its parameters out.

    Attributes:
      scanned: layers are stacked, on axis 1.
      split_heads: kernels of attention have separate axes for heads and head size.
      decoder_norm: whether the decoder's final norm has a scale; UL2-20B is said to have none.
    """

    scanned: bool = False
    split_heads: bool = False
    decoder_norm: bool = True


PLAIN, SCANNED = Layout(), Layout(scanned=True, split_heads=True)
LAYOUTS = {"plain": PLAIN, "scanned": SCANNED}


@dataclass(frozen=True, kw_only=True)
class Weight:
    """One of our parameters and its arrays in T5X.

    Attributes:
      path: ours.
      axes: ours, with a leading "layers" if stacked.
      names: T5X's, without ``target/``: one, or one per layer.
      their_axes: of each of them.
      sizes: of all axes by name.
    """

    path: str
    axes: Axes
    names: tuple[str, ...]
    their_axes: Axes
    sizes: Mapping[str, int]

    @property
    def per_layer(self) -> bool:
        """Whether T5X has one array for each layer of ours."""
        return LAYERS in self.axes and LAYERS not in self.their_axes

    @property
    def their_shape(self) -> tuple[int, ...]:
        return shape(self.their_axes, self.sizes)

    def leaf(self) -> Leaf:
        """The same, as all converters have it."""
        ours = self.axes[1:] if self.per_layer else self.axes
        return Leaf(
            path=self.path,
            names=tuple(TARGET + name for name in self.names),
            stacked=self.per_layer,
            to_ours=lambda x: rearrange(x, self.their_axes, ours, self.sizes),
            to_theirs=lambda x: rearrange(x, ours, self.their_axes, self.sizes),
        )


def weights(config: T5Config, layout: Layout) -> tuple[Weight, ...]:
    """The table: every parameter of `config` once, but a missing scale of the decoder's norm."""
    sizes = {
        "embed": config.d_model,
        "heads": config.num_heads,
        "kv": config.d_kv,
        "mlp": config.d_ff,
        "vocab": config.vocab_size,
        "relpos_buckets": config.relative_buckets,
    }

    def single(path: str, axes: Axes, name: str, their_axes: Axes | None = None) -> Weight:
        names, theirs = (name,), their_axes or axes
        return Weight(path=path, axes=axes, names=names, their_axes=theirs, sizes=sizes)

    table = [single("token_embedding", ("vocab", "embed"), EMBEDDING)]
    if not config.tied_logits:
        table.append(single("head", ("vocab", "embed"), HEAD, ("embed", "vocab")))
    for stack in _SELF:
        depth = config.num_layers(decoder=stack == "decoder")
        for path, (axes, name, theirs) in _block(config, layout, stack).items():
            if layout.scanned:
                names, theirs = (f"{stack}/{stack}/{name}",), (theirs[0], LAYERS, *theirs[1:])
            else:
                names = numbered(f"{stack}/layers_{{}}/{name}", depth)
            table.append(
                Weight(
                    path=f"{stack}/layers/{path}",
                    axes=(LAYERS, *axes),
                    names=names,
                    their_axes=theirs,
                    sizes={**sizes, LAYERS: depth},
                )
            )
        if not config.per_layer_relative_bias:
            name = f"{stack}/relpos_bias/rel_embedding"
            table.append(single(f"{stack}/relative_bias", BIAS, name))
        if stack == "encoder" or layout.decoder_norm:
            name = f"{stack}/{stack}_norm/scale"
            table.append(single(f"{stack}/final_norm", ("embed",), name))
    return tuple(table)


def _block(config: T5Config, layout: Layout, stack: str) -> dict[str, tuple[Axes, str, Axes]]:
    """Of one layer: our path -> (our axes, T5X's name, T5X's axes)."""
    norm, attention = ("embed",), _SELF[stack]
    table: dict[str, tuple[Axes, str, Axes]] = {
        "self_attention_norm": (norm, f"pre_{attention}_layer_norm/scale", norm),
        "mlp_norm": (norm, "pre_mlp_layer_norm/scale", norm),
    }
    blocks = {"self_attention": attention}
    if stack == "decoder":
        table["cross_attention_norm"] = (norm, "pre_cross_attention_layer_norm/scale", norm)
        blocks["cross_attention"] = "encoder_decoder_attention"
    for ours, theirs in blocks.items():
        for kernel, (axes, joined) in KERNELS.items():
            flat = axes if layout.split_heads else joined
            table[f"{ours}/{kernel}"] = (axes, f"{theirs}/{kernel}/kernel", flat)
    table.update(mlp_kernels(config.activation))
    if config.per_layer_relative_bias:
        table["relative_bias"] = (BIAS, "relpos_bias/rel_embedding", BIAS)
    return table


def mlp_kernels(activation: str) -> dict[str, tuple[Axes, str, Axes]]:
    """Of the feed-forward block: our path -> (our axes, T5X's name, T5X's axes)."""
    inputs = ("wi_0", "wi_1") if activation.endswith("_gated") else ("wi",)
    axes = {**dict.fromkeys(inputs, ("embed", "mlp")), "wo": ("mlp", "embed")}
    return {f"mlp/{name}": (axes[name], f"mlp/{name}/kernel", axes[name]) for name in axes}


def refuse_fused(names: Iterable[str]) -> None:
    """Raises ValueError for a flaxformer model that joins attention and feed-forward."""
    fused = [name for name in names if "_fused" in name]
    if fused:
        raise ValueError(
            f"The checkpoint holds {fused[0]!r}: a flaxformer decoder with fused projections, "
            f"which is another model than T5. It cannot be imported."
        )


def detect(shapes: Mapping[str, tuple[int, ...]]) -> Layout:
    """Finds the layout of a checkpoint's parameters from their shapes by name (without
    ``target/``).

    Raises:
      ValueError: for a model that is no encoder-decoder T5 of one of the four layouts.
    """
    names = shapes.keys()
    if not any(name.startswith("encoder/") for name in names):
        raise ValueError(
            f"The checkpoint holds no encoder, so it is no T5; it holds {_some(names)}."
        )
    scanned = any(name.startswith("encoder/encoder/") for name in names)
    layer = "encoder/encoder" if scanned else "encoder/layers_0"
    query = f"{layer}/attention/query/kernel"
    if query not in names or EMBEDDING not in names:
        raise ValueError(
            f"The checkpoint holds no {query if query not in names else EMBEDDING!r}, so it is no "
            f"T5; it holds {_some(names)}."
        )
    rank = len(shapes[query]) - scanned
    if rank not in (2, 3):
        raise ValueError(f"{query!r} has the shape {shapes[query]}, which no T5 has.")
    return Layout(scanned=scanned, split_heads=rank == 3, decoder_norm=DECODER_NORM in names)


def config_from(
    shapes: Mapping[str, tuple[int, ...]], told: Mapping[str, Any]
) -> tuple[T5Config, Layout]:
    """Infers the configuration from names and shapes.

    What these do not show is taken as T5X's examples have it: a gated feed-forward is "gelu_gated",
    another one "relu"; tied logits are scaled; distances end at 128.

    Args:
      shapes: of all parameters, by names without ``target/``.
      told: fields of `T5Config` known from elsewhere (a gin file, the user). Sizes among them are
        checked against the arrays by :func:`check`.

    Raises:
      ValueError: for a model that is no T5.
    """
    names, layout = shapes.keys(), detect(shapes)

    def sizes_of(pattern: str, rank: int) -> tuple[int, ...]:
        found = sorted(name for name in names if re.fullmatch(pattern, name))
        if not found:
            raise ValueError(f"The checkpoint holds no {pattern!r}, so it is no T5.")
        if len(shapes[found[0]]) != rank:
            raise ValueError(f"{found[0]!r} has the shape {shapes[found[0]]}, not of rank {rank}.")
        return shapes[found[0]]

    per_layer = "encoder/relpos_bias/rel_embedding" not in names
    bias = sizes_of(r"encoder/(\w+/)?relpos_bias/rel_embedding", 2 + per_layer * layout.scanned)
    layer = r"encoder/(encoder|layers_\d+)"
    gated = any(name.endswith("/mlp/wi_0/kernel") for name in names)
    query = sizes_of(f"{layer}/attention/query/kernel", 2 + layout.split_heads + layout.scanned)
    heads_kv = query[-2] * query[-1] if layout.split_heads else query[-1]
    vocab_size, d_model = sizes_of(EMBEDDING, 2)
    if heads_kv % max(bias[0], 1) or not bias[0]:
        raise ValueError(f"Kernels [{d_model}, {heads_kv}] do not divide into {bias[0]} heads.")
    decoder_query = shapes.get("decoder/decoder/self_attention/query/kernel", (0, 0))
    known = {
        "vocab_size": vocab_size,
        "d_model": d_model,
        "d_kv": heads_kv // bias[0],
        "d_ff": sizes_of(f"{layer}/mlp/wi(_0)?/kernel", 2 + layout.scanned)[-1],
        "num_heads": bias[0],
        "num_encoder_layers": query[1] if layout.scanned else depth(names, "encoder"),
        "num_decoder_layers": decoder_query[1] if layout.scanned else depth(names, "decoder"),
        "activation": "gelu_gated" if gated else "relu",
        "tied_logits": HEAD not in names,
        "scale_logits": HEAD not in names,
        "relative_buckets": bias[-1],
        "per_layer_relative_bias": per_layer,
    }
    return T5Config(**{**known, **told}), layout


def depth(names: Iterable[str], stack: str) -> int:
    """How many layers there are, where each has arrays of its own."""
    found = (re.match(rf"{stack}/layers_(\d+)/", name) for name in names)
    return len({match[1] for match in found if match})


def check(tensors: Arrays, table: Iterable[Weight], model: str) -> None:
    """Checks that the checkpoint's parameters are exactly those of the table.

    Args:
      tensors: the checkpoint.
      table: what it should hold.
      model: which model that is, in words.

    Raises:
      ValueError: naming parameters that are missing, left over, or of another shape.
    """
    expected = {TARGET + name: weight for weight in table for name in weight.names}
    present = {name for name in tensors.names if name.startswith(TARGET)}
    if missing := sorted(expected.keys() - present):
        raise ValueError(
            f"The checkpoint lacks {_some(missing)}, which {model} has. It is incomplete, "
            f"or another model."
        )
    if unused := sorted(present - expected.keys()):
        raise ValueError(
            f"The checkpoint holds {_some(unused)}, which {model} has no use for. It is "
            f"another model; nothing was imported."
        )
    for name, weight in expected.items():
        if tuple(tensors.shape(name)) != weight.their_shape:
            raise ValueError(
                f"{name!r} has the shape {tuple(tensors.shape(name))}; {model} wants "
                f"{weight.their_shape} with the axes {weight.their_axes}."
            )


def facts(config: T5Config) -> str:
    """The model in words, for messages."""
    return (
        f"a T5 with d_model {config.d_model}, {config.num_heads} heads of {config.d_kv}, d_ff "
        f"{config.d_ff}, {config.num_encoder_layers} + {config.num_decoder_layers} layers and "
        f"{config.activation!r}"
    )


def _some(names: Collection[str]) -> str:
    first = ", ".join(repr(name) for name in sorted(names)[:3])
    return first if len(names) <= 3 else f"{first} and {len(names) - 3} more"
