"""A checkpoint that T5X trained and saved: what T5X computes from it, we compute from it."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ul2tune import tree
from ul2tune.convert.t5x import models as t5x
from ul2tune.decoding.generate import generate
from ul2tune.decoding.interface import Rules
from ul2tune.decoding.sampling import SamplingConfig
from ul2tune.models import base
from ul2tune.models.t5 import T5Config

CONFIG = T5Config(
    vocab_size=384,
    d_model=128,
    d_kv=32,
    d_ff=256,
    num_heads=4,
    num_encoder_layers=2,
    num_decoder_layers=2,
    activation="gelu_gated",
    dtype="float32",
)
# Their float32 and ours round differently: 6e-6 was seen between T5X and a float64 forward pass.
ATOL = 1e-5


@pytest.fixture(scope="module")
def golden(shared):
    return np.load(shared / "golden/t5x/t511_tiny_ref.npz")


@pytest.fixture(scope="module")
def params(shared):
    source = t5x.open_model(shared / "golden/t5x/t511_tiny_legacy", {"dtype": CONFIG.dtype})
    assert source.config == CONFIG
    return t5x.load_params(source)


def batch_of(golden, prefix: str = ""):
    start = f"{prefix}batch/"
    return {name[len(start) :]: golden[name] for name in golden.files if name.startswith(start)}


def test_every_parameter_has_its_place(params):
    ours = jax.tree.map(lambda x: x.shape, base.abstract_params(CONFIG))
    assert ours == jax.tree.map(np.shape, params)
    assert tree.num_elements(params) == 886_528


@pytest.mark.parametrize("prefix", ["", "packed/"])
@pytest.mark.parametrize("attention", ["xla", "chunked"])
def test_logits(golden, params, prefix, attention):
    batch = batch_of(golden, prefix)
    config = T5Config(**{**vars(CONFIG), "attention": attention, "attention_chunk_tokens": 48})
    logits = jax.jit(lambda p: base.bind(config, p).logits(batch))(params)
    real_BL = batch["decoder_target_tokens"] > 0
    np.testing.assert_allclose(logits[real_BL], golden[f"{prefix}logits"][real_BL], atol=ATOL)


def test_encoder(golden, params):
    batch = batch_of(golden)
    encoded = base.bind(CONFIG, params).encode(batch)
    real_BS = batch["encoder_input_tokens"] > 0
    np.testing.assert_allclose(encoded[real_BS], golden["encoded"][real_BS], atol=ATOL)


def test_loss_scores_and_gradient_norm(golden, params):
    batch = batch_of(golden)
    weights_BL = batch["decoder_loss_weights"].astype(np.float32)

    def loss(params):
        logits_BLV = base.bind(CONFIG, params).logits(batch)
        log_z_BL = jax.nn.logsumexp(logits_BLV, axis=-1)
        targets_BL1 = batch["decoder_target_tokens"][..., None]
        scores_BL = jnp.take_along_axis(logits_BLV, targets_BL1, axis=-1)[..., 0] - log_z_BL
        z_loss = 1e-4 * jnp.sum(weights_BL * log_z_BL**2)
        return z_loss - jnp.sum(weights_BL * scores_BL), (z_loss, weights_BL * scores_BL)

    (total, (z_loss, scores_BL)), grads = jax.jit(jax.value_and_grad(loss, has_aux=True))(params)
    np.testing.assert_allclose(total, golden["loss"], rtol=1e-6)
    np.testing.assert_allclose(z_loss, golden["z_loss"], rtol=1e-5)
    np.testing.assert_allclose(scores_BL, golden["token_scores"] * weights_BL, atol=ATOL, rtol=1e-5)
    np.testing.assert_allclose(scores_BL.sum(1), golden["seq_scores"], rtol=1e-5)
    np.testing.assert_allclose(tree.global_norm(grads), golden["grad_norm"], rtol=1e-5)


def test_greedy_decoding(golden, params):
    expected_BL, eos = golden["greedy"], 1
    length = expected_BL.shape[1]
    cache = base.bind(CONFIG, params).start_decoding(batch_of(golden), max_decode_length=length)
    step = jax.jit(lambda p, *args: base.bind(CONFIG, p).decode_step(*args))
    token_B = np.zeros(len(expected_BL), np.int32)
    done_B, tokens = np.zeros(len(expected_BL), bool), []
    for index in range(length):
        logits_BV, cache = step(params, cache, token_B, index)
        token_B = np.where(done_B, 0, np.argmax(logits_BV, axis=-1)).astype(np.int32)
        done_B |= token_B == eos
        tokens.append(token_B)
    np.testing.assert_array_equal(np.stack(tokens, axis=1), expected_BL)


def test_beam_search(golden, params):
    """The last of T5X's four is their best. Nothing has ended: it is the likeliest that goes on."""
    expected_BL = golden["beam4"][:, -1]
    config = SamplingConfig(max_decode_length=expected_BL.shape[1], num_beams=4, beam_alpha=0.6)
    batch = {"encoder_input_tokens": jnp.asarray(golden["batch/encoder_input_tokens"])}
    names_B2 = jnp.zeros((len(expected_BL), 2), jnp.uint32)

    @jax.jit
    def search(params):
        model = base.bind(CONFIG, params)
        return generate(model, batch, config, Rules(num_ids=CONFIG.vocab_size), names_B2).tokens_BL

    np.testing.assert_array_equal(search(params), expected_BL)
    assert not np.array_equal(expected_BL, golden["greedy"])
