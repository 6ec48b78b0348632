"""T5Gemma's sub-modules, fed what Transformers' were fed."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from tools.parity.check import Loaded, Result, compare
from ul2tune.models import base, decoder_features
from ul2tune.models.attention import Implementation
from ul2tune.models.decoder_block import LayerKinds
from ul2tune.models.t5gemma_block import CrossBlock
from ul2tune.models.visibility import Visibility

OFF = (0.0, None)
NORMS = {
    "pre_self_attn_layernorm": "attention_norm",
    "post_feedforward_layernorm": "mlp_post_norm",
}


def submodules(loaded: Loaded) -> list[Result]:
    """One result per tap of tools/parity/t5gemma.py."""
    names = [name.split("/")[1] for name in loaded.reference if name.endswith("/in")]
    results = []
    for name in names:
        given, expected = (loaded.reference[f"tap/{name}/{side}"] for side in ("in", "out"))
        side = "encoder" if ".encoder." in name else "decoder"
        tokens = "encoder" if side == "encoder" else "targets"
        real_BL = loaded.reference[f"inputs/{tokens}"] != 0
        parts = name.replace("text_model.", "").split(".")[2:]
        ours = np.asarray(_Side(loaded, side).output(parts, jnp.asarray(given)))
        results.append(compare(name, ours[real_BL], expected[real_BL]))
    return results


class _Side:
    """One stack, and who sees whom in it."""

    def __init__(self, loaded: Loaded, side: str):
        model = base.bind(loaded.config, loaded.params)
        self.stack, self.side = getattr(model, side), side
        self.encoded_BSD = model.encode(loaded.batch) if side == "decoder" else None
        self.positions_BL = decoder_features.positions(loaded.batch, side)
        source, target = (
            jnp.asarray(loaded.reference[f"inputs/{name}"] != 0, jnp.int32)
            for name in ("encoder", "targets")
        )
        own = source if side == "encoder" else target
        self.seen = Visibility(query_BL=own, key_BS=own, causal=side == "decoder", packed=False)
        self.cross = Visibility(query_BL=target, key_BS=source, causal=False, packed=False)

    def output(self, parts: list[str], x_BLD: jax.Array) -> jax.Array:
        """What the sub-module `parts` of the stack makes of its first argument."""
        if parts == ["norm"]:
            return self.stack.final_norm(x_BLD)
        number = int(parts[1])
        block: CrossBlock = jax.tree.map(lambda x: x[number], self.stack.layers)
        stack, length = self.stack, x_BLD.shape[1]
        kinds = LayerKinds(stack.config, self.positions_BL, length, stack.right_window)
        is_local = kinds.is_local_N[number]
        seen, rotation = kinds.within(self.seen, is_local), kinds.rotation(is_local)
        how = Implementation(name="xla", chunk_tokens=1)

        def attend(y_BLD: jax.Array) -> jax.Array:
            return block.attention(y_BLD, rotation, seen, how)

        def cross(y_BLD: jax.Array) -> jax.Array:
            assert self.encoded_BSD is not None
            return block.crossed(y_BLD, self.encoded_BSD, self.cross, how)

        if len(parts) == 2:
            has_cross = self.side == "decoder"
            return block(x_BLD, attend, cross=cross if has_cross else None)
        if parts[2] in ("self_attn", "cross_attn"):
            return (attend if parts[2] == "self_attn" else cross)(x_BLD)
        return (
            block.mlp(x_BLD, OFF) if parts[2] == "mlp" else getattr(block, NORMS[parts[2]])(x_BLD)
        )
