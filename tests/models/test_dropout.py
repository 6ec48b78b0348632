from __future__ import annotations

import functools
from collections import Counter

import jax
import jax.numpy as jnp
import numpy as np

from tests.models import examples
from ul2tune.models import attention, base, layers
from ul2tune.models.visibility import Visibility

HOW = attention.Implementation(name="xla", chunk_tokens=1)


@functools.partial(jax.jit, static_argnums=0, compiler_options=examples.QUICK)
def logits(config, params, key):
    return base.bind(config, params).logits(examples.packed_batch(), dropout_key=key)


def test_the_key_decides():
    config = examples.config(dropout_rate=0.3, num_encoder_layers=1, num_decoder_layers=1)
    params = examples.params(config)
    keys = [jax.random.key(0), jax.random.key(0), jax.random.key(1), None]
    first, again, other, off = (logits(config, params, key) for key in keys)
    np.testing.assert_array_equal(first, again)
    assert np.abs(first - other).max() > 0.1
    assert np.abs(first - off).max() > 0.1
    without = examples.config(num_encoder_layers=1, num_decoder_layers=1)
    np.testing.assert_array_equal(logits(without, params, jax.random.key(0)), off)


def test_a_channel_is_dropped_for_the_whole_sequence():
    x_BLD = jnp.ones((64, 5, 100))
    y_BLD = layers.drop_channels(x_BLD, (0.25, jax.random.key(0)))
    np.testing.assert_array_equal(y_BLD, jnp.broadcast_to(y_BLD[:, :1], y_BLD.shape))
    assert set(np.unique(y_BLD)) == {np.float32(0), np.float32(1) / np.float32(0.75)}
    np.testing.assert_allclose(np.mean(y_BLD == 0), 0.25, atol=0.02)
    half = layers.drop_channels(x_BLD.astype(jnp.bfloat16), (0.1, jax.random.key(0)))
    assert half.dtype == jnp.bfloat16


def test_attention_weights_are_dropped_per_key_as_in_t5x():
    segments = jnp.ones((2, 4), jnp.int32)
    seen = Visibility(query_BL=segments, key_BS=segments, causal=True, packed=False)
    module = attention.MultiHeadAttention(8, 2, 4, jax.random.key(0))
    x_BLD = jax.random.normal(jax.random.key(1), (2, 4, 8))
    key, rate = jax.random.key(2), 0.4
    ours = module(x_BLD, x_BLD, None, seen, HOW, (rate, key))
    # T5X: softmax, then a mask [B, H, 1, S] on the weights.
    query, keys, values = (module.heads(x_BLD, k) for k in (module.query, module.key, module.value))
    logits = jnp.einsum("BLHA,BSHA->BHLS", query, keys)
    weights = jax.nn.softmax(jnp.where(seen.mask()[:, None], logits, -1e30), axis=-1)
    mask_BSH = layers.keep_mask((rate, key), (2, 4, 2))
    assert mask_BSH is not None
    dropped = weights * jnp.moveaxis(mask_BSH, 1, 2)[:, :, None]
    assert 0 < int((mask_BSH == 0).sum()) < mask_BSH.size
    expected = module.merge(jnp.einsum("BHLS,BSHA->BLHA", dropped, values))
    np.testing.assert_allclose(ours, expected, atol=1e-5)


def test_the_places_are_those_of_t5():
    config = examples.config(dropout_rate=0.1, scan_layers=False)
    key = jax.random.key(0)
    jaxpr = jax.make_jaxpr(lambda p: logits.__wrapped__(config, p, key))(
        base.abstract_params(config)
    )
    drawn = Counter(shapes_of_draws(jaxpr.jaxpr))
    rows, d, f, heads = 2, config.d_model, config.d_ff, config.num_heads
    encoder, decoder = config.num_encoder_layers, config.num_decoder_layers
    assert drawn == {
        # Embeddings and final norm of both stacks; every residual branch.
        (rows, d): 4 + 2 * encoder + 3 * decoder,
        (rows, f): encoder + decoder,
        (rows, examples.SOURCE_LENGTH, heads): encoder + decoder,
        (rows, examples.TARGET_LENGTH, heads): decoder,
    }


def shapes_of_draws(jaxpr):
    for eqn in jaxpr.eqns:
        if eqn.primitive.name == "random_bits":
            yield eqn.outvars[0].aval.shape
        for value in eqn.params.values():
            inner = getattr(value, "jaxpr", value)
            if hasattr(inner, "eqns"):
                yield from shapes_of_draws(inner)
