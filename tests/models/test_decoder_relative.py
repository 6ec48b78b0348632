"""T5's decoder without an encoder, against its equations in NumPy."""

from __future__ import annotations

import dataclasses
from collections import Counter

import jax
import numpy as np
import pytest

from tests.models import decoder_examples as tiny
from tests.models import examples
from tests.models.test_decoder import logits
from tests.models.test_dropout import shapes_of_draws
from ul2tune import tree
from ul2tune.models import base

# Of 8 buckets that end at distance 10: bucket of each distance to the left.
BUCKETS = [0, 1, 2, 3, 4, 4, 5, 6, 7, 7, 7, 7]


def normed(x_LD, scale_D):
    return x_LD / np.sqrt(np.mean(x_LD**2, axis=-1, keepdims=True) + 1e-6) * scale_D


def gelu(x):
    return 0.5 * x * (1 + np.tanh((2 / np.pi) ** 0.5 * (x + 0.044715 * x**3)))


def bias_of(table_HR, length: int):
    """[H, L, S]; whatever is to the right is in the bucket of distance 0."""
    behind_LS = np.arange(length)[:, None] - np.arange(length)[None]
    return table_HR[:, np.array(BUCKETS)[np.maximum(behind_LS, 0)]]


def seen_by(batch, row: int):
    index = np.arange(tiny.LENGTH)
    prefix = batch.get("decoder_causal_attention", np.zeros((9, tiny.LENGTH)))[row] > 0
    seen_LS = (index[:, None] >= index) | (prefix[:, None] & prefix)
    ids = batch.get("decoder_segment_ids", np.ones((9, tiny.LENGTH)))[row]
    return seen_LS & (ids[:, None] == ids)


def forward(params, tokens_L, seen_LS, *, tied: bool):
    """Logits [L, V] of one row, in float64."""
    flat = {path: np.asarray(leaf, np.float64) for path, leaf in tree.flatten(params).items()}
    x_LD = flat["token_embedding"][tokens_L]
    mask_LS = np.where(seen_LS, 0.0, -np.inf)
    for n in range(len(flat["layers/mlp/wo"])):
        p = {
            name.removeprefix("layers/"): leaf[n]
            for name, leaf in flat.items()
            if "layers/" in name
        }
        y_LD = normed(x_LD, p["attention_norm/scale"])
        query, key, value = (
            np.einsum("LD,DHA->LHA", y_LD, p[f"attention/{name}"])
            for name in ("query", "key", "value")
        )
        scores_HLS = np.einsum("LHA,SHA->HLS", query, key)
        weights_HLS = np.exp(scores_HLS + bias_of(flat["relative_bias"], len(tokens_L)) + mask_LS)
        weights_HLS /= weights_HLS.sum(axis=-1, keepdims=True)
        x_LD = x_LD + np.einsum("HLS,SHA,HAD->LD", weights_HLS, value, p["attention/out"])
        y_LD = normed(x_LD, p["mlp_norm/scale"])
        hidden_LF = gelu(y_LD @ p["mlp/wi_0"]) * (y_LD @ p["mlp/wi_1"])
        x_LD = x_LD + hidden_LF @ p["mlp/wo"]
    x_LD = normed(x_LD, flat["final_norm/scale"])
    if tied:
        return x_LD @ flat["token_embedding"].T / x_LD.shape[-1] ** 0.5
    return x_LD @ flat["head"].T


@pytest.mark.parametrize("attention", ["xla", "chunked"])
@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize(("layout", "tied"), [("causal_lm", True), ("prefix_lm", False)])
def test_logits_are_those_of_the_equations(layout, tied, packed, attention):
    config = tiny.t5(
        tied_logits=tied, scale_logits=tied, attention=attention, attention_chunk_tokens=5
    )
    params = examples.params(config)
    batch = (tiny.packed_batch if packed else tiny.batch)(layout)
    got_BLV = logits(config, params, batch)
    for row, tokens_L in enumerate(batch["decoder_input_tokens"]):
        real_L = batch["decoder_target_tokens"][row] != 0
        expected = forward(params, tokens_L, seen_by(batch, row), tied=tied)
        np.testing.assert_allclose(got_BLV[row][real_L], expected[real_L], atol=2e-5)


def test_dropout_is_where_t5_has_it():
    config = tiny.t5(dropout_rate=0.1, scan_layers=False)
    rows, depth, d, f = 2, config.num_layers, config.d_model, config.d_ff

    def places(config):
        run = jax.make_jaxpr(
            lambda p: logits.__wrapped__(config, p, tiny.packed_batch(), jax.random.key(0))
        )
        return Counter(shapes_of_draws(run(base.abstract_params(config)).jaxpr))

    weights = {(rows, tiny.LENGTH, config.num_heads): depth}
    # Embeddings and final states; every branch; the feed-forward's hidden activations.
    assert places(config) == {(rows, d): 2 + 2 * depth, (rows, f): depth, **weights}
    opt = tiny.opt(dropout_rate=0.1, attention_dropout_rate=0.1, scan_layers=False)
    assert places(opt) == {(rows, d): 2 * depth, **weights}


def test_positions_of_the_batch_are_not_needed():
    """Distances are those of row indexes, however documents count."""
    config = tiny.t5()
    params, batch = examples.params(config), tiny.packed_batch()
    counted = logits(config, params, batch)
    del batch["decoder_positions"]
    np.testing.assert_array_equal(logits(config, params, batch), counted)


def test_a_model_without_scaled_logits_is_larger_by_that_factor():
    config = tiny.t5()
    params, batch = examples.params(config), tiny.batch()
    unscaled = dataclasses.replace(config, scale_logits=False)
    np.testing.assert_allclose(
        logits(unscaled, params, batch), logits(config, params, batch) * 4.0, rtol=1e-5, atol=1e-5
    )
