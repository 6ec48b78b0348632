"""T5's sub-modules, fed what Transformers' were fed."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from tools.parity.check import Loaded, Result, compare
from ul2tune.models import base
from ul2tune.models.attention import Implementation
from ul2tune.models.layers import rms_norm
from ul2tune.models.visibility import Visibility

OFF = (0.0, None)


def submodules(loaded: Loaded) -> list[Result]:
    """One result per tap of tools/parity/t5.py."""
    taps = {
        name.removeprefix("tap/").removesuffix("/in"): name.removesuffix("/in")
        for name in loaded.reference
        if name.endswith("/in")
    }
    model = base.bind(loaded.config, loaded.params)
    results = []
    for name, key in taps.items():
        given, expected = (loaded.reference[f"{key}/{side}"] for side in ("in", "out"))
        ours = _Sub(model, loaded).output(name.split("."), given)
        real = _real(loaded, name)
        results.append(compare(name, np.asarray(ours)[real], expected[real]))
    return results


def _real(loaded: Loaded, name: str) -> np.ndarray:
    side = "inputs/encoder" if name.startswith("encoder") else "inputs/targets"
    return loaded.reference[side] != 0


class _Sub:
    """Our counterparts of ``encoder``, ``decoder.block.1``, ``….SelfAttention`` and so on."""

    def __init__(self, model: Any, loaded: Loaded):
        self.model, self.config, self.batch = model, loaded.config, loaded.batch
        source = jnp.asarray(loaded.reference["inputs/encoder"] != 0, jnp.int32)
        # What a decoder reads starts with 0 and is real all the same: see `visibility.segments`.
        target = jnp.asarray(loaded.reference["inputs/targets"] != 0, jnp.int32)
        self.own = {
            "encoder": Visibility(query_BL=source, key_BS=source, causal=False, packed=False),
            "decoder": Visibility(query_BL=target, key_BS=target, causal=True, packed=False),
        }
        self.cross = Visibility(query_BL=target, key_BS=source, causal=False, packed=False)
        self.how = Implementation(name="xla", chunk_tokens=1)

    def output(self, path: list[str], given: np.ndarray) -> jax.Array:
        """What the sub-module `path` makes of `given` (its first argument)."""
        side = path[0]
        stack = getattr(self.model, side)
        if len(path) == 1:  # given token ids
            return self.model.encode(self.batch) if side == "encoder" else self._decoder()
        number, x_BLD = int(path[2]), jnp.asarray(given)
        block = jax.tree.map(lambda x: x[number], stack.layers)
        bias_HW = stack.bias_HW(block, x_BLD.shape[1])
        encoded_BSD = self.model.encode(self.batch)
        if len(path) == 3:
            cross = (encoded_BSD, self.cross) if side == "decoder" else None
            return block(x_BLD, bias_HW, self.own[side], None, cross)
        module = path[-1]
        if module == "SelfAttention":
            return block.self_attention(x_BLD, x_BLD, bias_HW, self.own[side], self.how)
        if module == "EncDecAttention":
            return block.cross_attention(x_BLD, encoded_BSD, None, self.cross, self.how)
        if module == "DenseReluDense":
            return block.mlp(x_BLD, OFF)
        assert module == "layer_norm", path
        norm: nnx.Param = block.self_attention_norm
        return rms_norm(x_BLD, norm[...], self.config.layer_norm_eps)

    def _decoder(self) -> jax.Array:
        hidden_BLD = self.model.hidden(self.batch)
        return hidden_BLD * (self.config.d_model**0.5 if self.config.scale_logits else 1.0)
