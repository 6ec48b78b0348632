from __future__ import annotations

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.models import examples
from ul2tune.models import base
from ul2tune.models.t5 import T5Config

# One other value per field. Most change shapes or outputs; the rest is how they are computed.
CHANGES = {
    "vocab_size": 40,
    "d_model": 24,
    "d_kv": 4,
    "d_ff": 40,
    "num_heads": 4,
    "num_encoder_layers": 1,
    "num_decoder_layers": 1,
    "activation": "silu_gated",
    "tied_logits": True,
    "scale_logits": True,
    "relative_buckets": 12,
    "relative_max_distance": 5,
    "per_layer_relative_bias": True,
    "dropout_rate": 0.5,
    "layer_norm_eps": 0.1,
    "dtype": "bfloat16",
    "remat": "full",
    "scan_layers": False,
    "attention": "chunked",
    "attention_chunk_tokens": 3,
}
HOW = ("remat", "scan_layers", "attention", "attention_chunk_tokens")


def test_every_field_is_perturbed():
    assert set(CHANGES) == {field.name for field in dataclasses.fields(T5Config)}


def shapes(config: T5Config):
    return jax.tree.map(lambda x: x.shape, base.abstract_params(config))


@functools.partial(jax.jit, static_argnums=0, compiler_options=examples.QUICK)
def run(config: T5Config, params):
    return base.bind(config, params).logits(examples.packed_batch(), dropout_key=jax.random.key(0))


@pytest.mark.parametrize("name", sorted(CHANGES))
def test_every_field_is_live(name):
    # The chunk size matters to "chunked" alone.
    common = {"attention": "chunked"} if name == "attention_chunk_tokens" else {}
    before = examples.config(**common)
    after = dataclasses.replace(before, **{name: CHANGES[name]})
    if name in HOW:

        def program(config):
            grad = jax.grad(lambda p: jnp.sum(run.__wrapped__(config, p)))
            return str(jax.make_jaxpr(grad)(base.abstract_params(config)))

        assert program(before) != program(after)
        return
    if shapes(before) == shapes(after):
        params = examples.params(before)
        # Far beyond rounding: the largest change of a logit.
        difference = np.abs(run(before, params) - run(after, params)).max()
        assert difference > 1e-3, difference


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"activation": "tanh"}, r"activation = 'tanh' is not one of \('relu',"),
        ({"dtype": "float16"}, "dtype = 'float16' is not one of"),
        ({"remat": "some"}, "remat = 'some' is not one of"),
        ({"attention": "flash"}, "attention = 'flash' is not one of"),
        ({"dropout_rate": 1.0}, r"dropout_rate = 1.0 is not in \[0, 1\)"),
        ({"d_model": 0}, "d_model = 0 must be an integer >= 1"),
        ({"layer_norm_eps": 0.0}, "layer_norm_eps = 0.0 must be positive"),
        ({"num_heads": 2.0}, "num_heads = 2.0 must be an integer >= 1"),
        ({"relative_buckets": 6}, "relative_buckets = 6 must be a multiple of 4"),
        ({"relative_buckets": 32, "relative_max_distance": 16}, "relative_max_distance = 16"),
    ],
)
def test_impossible_configurations_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        examples.config(**changes)


@pytest.mark.parametrize(
    ("path", "std"),
    [
        ("token_embedding", 1.0),
        ("head", 64**-0.5),
        ("encoder/layers/self_attention/query", (64 * 16) ** -0.5),
        ("decoder/layers/cross_attention/key", 64**-0.5),
        ("decoder/layers/self_attention/value", 64**-0.5),
        ("encoder/layers/self_attention/out", (4 * 16) ** -0.5),
        ("encoder/layers/mlp/wi_0", 64**-0.5),
        ("decoder/layers/mlp/wo", 128**-0.5),
        # Uniform with variance 2 / (heads + buckets).
        ("decoder/relative_bias", (2 / (4 + 32)) ** 0.5),
        ("encoder/final_norm", 0.0),
    ],
)
def test_initial_scales_are_those_of_mesh_tensorflow(path, std):
    config = T5Config(
        vocab_size=512,
        d_model=64,
        d_kv=16,
        d_ff=128,
        num_heads=4,
        num_encoder_layers=3,
        num_decoder_layers=3,
    )
    leaf = base.init_params(config, jax.random.key(0))
    for name in path.split("/"):
        leaf = leaf[name]
    assert leaf.dtype == jnp.float32
    np.testing.assert_allclose(np.std(leaf), std, rtol=0.1)
    np.testing.assert_allclose(np.mean(leaf), std == 0.0, atol=0.1 * std)
    if leaf.ndim > 2:  # stacked layers are independent draws
        assert np.abs(leaf[0] - leaf[1]).min() > 0
