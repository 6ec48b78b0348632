"""The decoder-only families' sub-modules, fed what Transformers' were fed."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np

from tools.parity.check import Loaded, Result, compare
from ul2tune.models import base, decoder_features
from ul2tune.models.attention import Implementation
from ul2tune.models.decoder_block import Block, LayerKinds

OFF = (0.0, None)
NORMS = {
    "input_layernorm": "attention_norm",
    "self_attn_layer_norm": "attention_norm",
    "pre_feedforward_layernorm": "mlp_norm",
    "post_feedforward_layernorm": "mlp_post_norm",
}


def submodules(loaded: Loaded) -> list[Result]:
    """One result per tap of tools/parity/decoder.py."""
    names = [name.split("/")[1] for name in loaded.reference if name.endswith("/in")]
    real_BL = loaded.reference["inputs/tokens"] != 0
    shape = (*real_BL.shape, -1)  # OPT's feed-forward sees rows joined
    given, expected = (
        {name: loaded.reference[f"tap/{name}/{side}"].reshape(shape) for name in names}
        for side in ("in", "out")
    )

    @jax.jit
    def outputs(params: Any, given: Any) -> Any:
        model = base.bind(loaded.config, params)
        return {name: _output(model, loaded, name, x_BLD) for name, x_BLD in given.items()}

    return [
        compare(name, np.asarray(ours)[real_BL], expected[name][real_BL])
        for name, ours in outputs(loaded.params, given).items()
    ]


def _output(model: Any, loaded: Loaded, name: str, x_BLD: jax.Array) -> jax.Array:
    if not name.split(".")[-2].isdigit():  # of the whole model, not of a layer
        return model.final_norm(x_BLD)
    *_, number, module = name.split(".")
    block: Block = jax.tree.map(lambda x: x[int(number)], model.layers)
    if module == "self_attn":
        return _attention(block, loaded, int(number), x_BLD)
    if module == "mlp":
        return block.mlp(x_BLD, OFF)
    if module == "fc1":
        return block.mlp.project(x_BLD, "wi")
    sandwich = loaded.config.norm_order == "sandwich"
    ours = NORMS.get(module, "attention_post_norm" if sandwich else "mlp_norm")
    return getattr(block, ours)(x_BLD)


def _attention(block: Block, loaded: Loaded, number: int, x_BLD: jax.Array) -> jax.Array:
    kinds = LayerKinds(loaded.config, decoder_features.positions(loaded.batch), x_BLD.shape[1])
    is_local = kinds.is_local_N[number]
    seen = kinds.within(decoder_features.visibility(loaded.batch), is_local)
    how = Implementation(name="xla", chunk_tokens=1)
    return block.attention(x_BLD, kinds.rotation(is_local), seen, how)
