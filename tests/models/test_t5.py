from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from tests.models import examples
from ul2tune.models import base
from ul2tune.models.t5 import T5Config


@functools.partial(jax.jit, static_argnums=0, compiler_options=examples.QUICK)
def logits(config: T5Config, params, batch):
    return base.bind(config, params).logits(batch)


@functools.partial(jax.jit, static_argnums=0, compiler_options=examples.QUICK)
def outputs(config: T5Config, params, batch, weights_BLV):
    """The logits, and the gradient of a random linear function of those of real targets."""

    def loss(params):
        logits_BLV = base.bind(config, params).logits(batch)
        real_BL1 = (batch["decoder_target_tokens"] > 0)[..., None]
        return jnp.sum(jnp.where(real_BL1, logits_BLV * weights_BLV, 0)), logits_BLV

    gradient, logits_BLV = jax.grad(loss, has_aux=True)(params)
    return logits_BLV, gradient


def real(batch, array_BL):
    """The rows of `array_BL` at real targets, in reading order."""
    return np.asarray(array_BL)[batch["decoder_target_tokens"] > 0]


def assert_gradients_close(ours, theirs):
    """They are sums over tokens, up to 20 large: rounding is relative to the largest entry."""
    assert jax.tree.structure(ours) == jax.tree.structure(theirs)
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs)):
        np.testing.assert_allclose(a, b, atol=1e-5 * max(1, np.abs(b).max()))


# Both sides of every switch that may not change results.
SAME = {
    "inline": {"scan_layers": False},
    "remat full": {"remat": "full"},
    "remat dots": {"remat": "dots"},
    "remat dots inline": {"remat": "dots", "scan_layers": False},
    "chunked": {"attention": "chunked", "attention_chunk_tokens": 3},
}


@pytest.fixture(scope="module")
def reference():
    config = examples.config()
    params, batch = examples.params(config), examples.packed_batch()
    weights = np.random.default_rng(1).standard_normal((2, 8, examples.VOCAB)).astype(np.float32)
    return params, batch, weights, *outputs(config, params, batch, weights)


@pytest.mark.parametrize("name", SAME)
def test_how_it_is_computed_changes_neither_logits_nor_gradients(reference, name):
    params, batch, weights, out, gradient = reference
    config = examples.config(**SAME[name])
    ours = outputs(config, params, batch, weights)
    np.testing.assert_allclose(real(batch, ours[0]), real(batch, out), atol=2e-6)
    assert_gradients_close(ours[1], gradient)


def test_remat_computes_again_what_it_says():
    def products(**changes) -> int:
        config = examples.config(**changes)
        params, batch = base.abstract_params(config), examples.packed_batch()
        weights = np.zeros((2, 8, examples.VOCAB), np.float32)
        text = str(
            jax.make_jaxpr(outputs.__wrapped__, static_argnums=0)(config, params, batch, weights)
        )
        return text.count("dot_general")

    none, dots, full = (products(remat=name) for name in ("none", "dots", "full"))
    assert none < dots < full
    # An attention that saves memory itself is not computed again, only what is between products.
    none, dots = (products(remat=name, attention="chunked") for name in ("none", "dots"))
    assert none == dots


@pytest.mark.parametrize(
    "changes", [{}, {"per_layer_relative_bias": True}, {"attention": "chunked"}]
)
def test_packed_segments_are_computed_as_if_they_were_alone(changes):
    config = examples.config(**changes)
    params = examples.params(config)
    packed, alone = examples.packed_batch(), examples.batch()
    # The same random weight for the same token, whatever row it is in.
    tokens = int((alone["decoder_target_tokens"] > 0).sum())
    weights = np.random.default_rng(2).standard_normal((tokens, examples.VOCAB)).astype(np.float32)
    results = []
    for batch in (packed, alone):
        spread = np.zeros((*batch["decoder_target_tokens"].shape, examples.VOCAB), np.float32)
        spread[batch["decoder_target_tokens"] > 0] = weights
        out, gradient = outputs(config, params, batch, spread)
        results.append((real(batch, out), gradient))
    np.testing.assert_array_equal(real(packed, packed["decoder_target_tokens"]),
                                  real(alone, alone["decoder_target_tokens"]))  # fmt: skip
    np.testing.assert_allclose(results[0][0], results[1][0], atol=2e-6)
    assert_gradients_close(results[0][1], results[1][1])


@pytest.mark.parametrize("attention", ["xla", "chunked"])
def test_targets_without_inputs_read_no_other_segments_inputs(attention):
    """Plain language modelling has empty inputs; packed or alone, it is the same task."""
    config = examples.config(attention=attention)
    params = examples.params(config)
    packed, alone = examples.packed_batch(), examples.batch()
    last_S = packed["encoder_segment_ids"][0] == 2
    for name in ("encoder_input_tokens", "encoder_segment_ids", "encoder_positions"):
        packed[name][0, last_S] = 0
    alone["encoder_input_tokens"][1] = 0
    results = []
    for batch in (packed, alone):
        spread = np.zeros((len(batch["decoder_target_tokens"]), 8, examples.VOCAB), np.float32)
        spread[batch["decoder_target_tokens"] > 0] = 1.0 + np.arange(examples.VOCAB)
        out, gradient = outputs(config, params, batch, spread)
        results.append((real(batch, out), gradient))
    np.testing.assert_allclose(results[0][0], results[1][0], atol=2e-6)
    assert_gradients_close(results[0][1], results[1][1])


def test_what_a_position_depends_on():
    """Gradients of every output with respect to every input position: causal, and per segment."""
    config = examples.config(vocab_size=64)
    params, batch = examples.params(config), examples.packed_batch()
    # Every position gets a token, and so an embedding row, of its own.
    sources, targets = examples.SOURCE_LENGTH, examples.TARGET_LENGTH
    source_ids = 1 + np.arange(2 * sources).reshape(2, -1)
    target_ids = 1 + source_ids.max() + np.arange(2 * targets).reshape(2, -1)
    batch |= {"encoder_input_tokens": source_ids, "decoder_input_tokens": target_ids}

    @functools.partial(jax.jit, compiler_options=examples.QUICK)
    @jax.jacrev
    def sensitivity(embedding):
        out_BLV = base.bind(config, params | {"token_embedding": embedding}).logits(batch)
        return jnp.sum(jnp.sin(out_BLV), axis=-1)

    depends_BLV = np.abs(sensitivity(params["token_embedding"])).sum(-1) > 0
    source_BS, target_BL = batch["encoder_segment_ids"], batch["decoder_segment_ids"]
    for row, position in np.argwhere(target_BL > 0):
        segment = target_BL[row, position]
        seen_sources = source_ids[row, source_BS[row] == segment]
        seen_targets = target_ids[row, : position + 1][target_BL[row, : position + 1] == segment]
        expected = {*seen_sources.tolist(), *seen_targets.tolist()}
        assert set(np.flatnonzero(depends_BLV[row, position])) == expected, (row, position)


@pytest.mark.parametrize(
    "changes",
    [{}, {"scan_layers": False}, {"per_layer_relative_bias": True, "tied_logits": True}],
)
def test_decoding_step_by_step_gives_the_teacher_forced_logits(changes):
    config = examples.config(**changes)
    params, batch = examples.params(config), examples.batch()
    if config.tied_logits:
        # Logits as large as those of a head of its own: the bound is a few of their float32 steps.
        params["token_embedding"] *= config.d_model**-0.5
    expected_BLV = np.asarray(logits(config, params, batch))
    start = jax.jit(
        lambda params: base.bind(config, params).start_decoding(
            batch,
            max_decode_length=10,  # longer than needed
        ),
        compiler_options=examples.QUICK,
    )
    cache = start(params)
    step = jax.jit(
        lambda params, cache, tokens, index: base.bind(config, params).decode_step(
            cache, tokens, index
        ),
        compiler_options=examples.QUICK,
    )
    # The encoder and the cross-attention's keys and values were computed once: their parameters do
    # not matter any more.
    zeros = jax.tree.map(np.zeros_like, params)
    cross = params["decoder"]["layers"]["cross_attention"]
    for name in ("key", "value"):
        cross[name] = np.zeros_like(cross[name])
    params["encoder"] = zeros["encoder"]
    for index in range(4):
        out_BV, cache = step(params, cache, batch["decoder_input_tokens"][:, index], index)
        assert out_BV.dtype == jnp.float32
        real_B = batch["decoder_target_tokens"][:, index] > 0
        np.testing.assert_allclose(
            np.asarray(out_BV)[real_B], expected_BLV[real_B, index], atol=5e-6
        )


def test_decoding_refuses_packed_batches():
    config = examples.config()
    model = base.bind(config, examples.params(config))
    with pytest.raises(ValueError, match="packed batch"):
        model.start_decoding(examples.packed_batch(), max_decode_length=4)


def test_bfloat16_computes_in_bfloat16_with_float32_parameters(reference):
    params, batch, _, out, _ = reference
    config = examples.config(dtype="bfloat16")
    hidden = jax.eval_shape(lambda p: base.bind(config, p).hidden(batch), params)
    assert hidden.dtype == jnp.bfloat16
    half = logits(config, params, batch)
    assert half.dtype == jnp.float32
    difference = np.abs(real(batch, half) - real(batch, out)).max()
    assert 1e-4 < difference < 0.15
    assert all(x.dtype == jnp.float32 for x in jax.tree.leaves(base.abstract_params(config)))


def test_tied_logits_read_the_embedding_and_are_scaled(reference):
    params, batch, _, _, _ = reference
    tied = examples.config(tied_logits=True)
    scaled = examples.config(tied_logits=True, scale_logits=True)
    params = {name: leaf for name, leaf in params.items() if name != "head"}
    np.testing.assert_array_equal(base.bind(tied, params).head_kernel(), params["token_embedding"])
    np.testing.assert_allclose(
        logits(scaled, params, batch), logits(tied, params, batch) / np.sqrt(16), atol=1e-5
    )


def test_hidden_states_times_the_head_are_the_logits(reference):
    params, batch, _, out, _ = reference
    model = base.bind(examples.config(), params)
    product = np.einsum("BLD,VD->BLV", model.hidden(batch), model.head_kernel())
    np.testing.assert_allclose(product, out, atol=1e-5)


@pytest.mark.parametrize("graph", [True, False])
def test_works_in_nnx_graph_and_tree_mode(reference, graph):
    params, batch, _, out, _ = reference
    config = examples.config(layer_norm_eps=1e-6 * (1 + 1e-9 * graph))  # not from the cache
    with nnx.set_graph_mode(graph):
        fresh = base.init_params(config, jax.random.key(0))
        assert jax.tree.structure(fresh) == jax.tree.structure(params)
        result = jax.jit(lambda p: base.bind(config, p).logits(batch))(params)
    np.testing.assert_allclose(real(batch, result), real(batch, out), atol=5e-6)
