"""Packing changes neither loss nor gradients: what the feed packs, against one segment per row.

The same segments go through the feed's converter twice, once with the document mask in few rows and
once alone in rows of their own (metaseq PR 104 accepted its document mask on such a test). All
layouts and models of the framework, with the objective that training uses.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.models import examples
from ul2tune.data import convert, packing
from ul2tune.data.ragged import Ragged
from ul2tune.models.decoder import DecoderConfig
from ul2tune.models.rotary import Rope
from ul2tune.training.loss import LossConfig, loss_weights
from ul2tune.training.step import StepConfig, forward

LENGTHS = ((5, 3), (2, 4), (6, 2), (3, 3), (1, 5), (4, 1))
SIZES: dict[str, Any] = {
    "vocab_size": examples.VOCAB,
    "d_model": 16,
    "num_layers": 2,
    "scan_layers": False,
    "num_heads": 2,
    "num_kv_heads": 2,
    "head_dim": 8,
    "d_ff": 24,
    "max_length": 32,
    "dtype": "float32",
}
MODELS = {
    "t5": (
        examples.config(num_encoder_layers=1, num_decoder_layers=1, scan_layers=False),
        "encoder_decoder",
    ),
    # OPT's parts: a table of positions, layer norms, biases.
    "learned positions": (
        DecoderConfig(
            **SIZES,
            learned_positions=True,
            norm="layer",
            attention_bias=True,
            attention_out_bias=True,
            mlp_bias=True,
            activation="relu",
            tied_logits=True,
        ),
        "causal_lm",
    ),
    "rotary, local layers, prefix": (
        DecoderConfig(
            **SIZES, rope=Rope(theta=100.0), attention_pattern="LG", sliding_window=3, start_id=2
        ),
        "prefix_lm",
    ),
    "relative bias, prefix": (
        DecoderConfig(**SIZES, relative_buckets=8, relative_max_distance=16, query_scalar=1.0),
        "prefix_lm",
    ),
}


def segments(rows: list[int], num_rows: int, packed: bool) -> convert.Segments:
    random = np.random.default_rng(1)
    sides = [
        Ragged.from_rows([random.integers(3, examples.VOCAB, n).astype(np.int32) for n in lengths])
        for lengths in zip(*LENGTHS)
    ]
    placement = packing.place(np.array(rows), num_rows=num_rows)
    return convert.Segments(inputs=sides[0], targets=sides[1], placement=placement, packed=packed)


def batch(layout: str, rows: list[int], num_rows: int, packed: bool) -> dict[str, np.ndarray]:
    parts = segments(rows, num_rows, packed)
    if layout == "encoder_decoder":
        return convert.encoder_decoder(parts, 16, 12)
    return getattr(convert, layout)(parts, 24)


def objective(model: Any, params: Any, features: dict[str, np.ndarray]) -> Any:
    """Both ways to weigh segments at once, so that one compilation serves both."""

    def loss(params):
        total = 0.0
        for normalizer in ("num_real_target_tokens", "average_per_sequence"):
            config = LossConfig(normalizer=normalizer, z_loss=1e-2, label_smoothing=0.1)
            step_config = StepConfig(model=model, loss=config, optimizer=None)  # type: ignore
            weights_BL, divisor = loss_weights(features, config)
            output, _ = forward(params, features, weights_BL, step_config, dropout_key=None)
            total += jnp.sum(output.loss_BL) / divisor
        return total

    return jax.jit(jax.value_and_grad(loss), compiler_options=examples.QUICK)(params)


@pytest.mark.parametrize("name", MODELS)
def test_packed_and_unpacked_gradients_agree(name):
    model, layout = MODELS[name]
    params = examples.params(model)
    # Three segments in a row, then two, then one.
    packed = objective(model, params, batch(layout, [0, 0, 0, 1, 1, 2], 3, packed=True))
    alone = objective(model, params, batch(layout, list(range(6)), 6, packed=False))
    np.testing.assert_allclose(packed[0], alone[0], rtol=2e-6)
    leaves = jax.tree_util.tree_leaves_with_path(packed[1])
    # A bias of keys has no gradient (the softmax does not see it): what is there is the rounding of
    # much larger terms that cancel, and JAX 0.12 adds them in another order.
    rounding = 2.0**-24 * max(float(jnp.abs(b).max()) for b in jax.tree.leaves(alone[1]))
    for (path, a), b in zip(leaves, jax.tree.leaves(alone[1]), strict=True):
        name = jax.tree_util.keystr(path)
        floor = rounding if "key_bias" in name else 1e-8
        tolerance = 2e-5 * float(jnp.abs(b).max()) + floor
        np.testing.assert_allclose(a, b, atol=tolerance, err_msg=name)


def test_without_the_mask_they_would_not():
    model, layout = MODELS["learned positions"]
    params = examples.params(model)
    right = batch(layout, [0, 0, 0, 1, 1, 2], 3, packed=True)
    leaking = {k: v for k, v in right.items() if k != "decoder_segment_ids"}
    losses = [objective(model, params, features)[0] for features in (right, leaking)]
    assert abs(float(losses[0] - losses[1])) > 1e-3
