"""T5Gemma and T5Gemma 2: who sees whom, packing, decoding, how it is computed."""

from __future__ import annotations

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.models import examples
from tests.models import t5gemma_examples as tiny
from ul2tune import sharding
from ul2tune.decoding.generate import generate
from ul2tune.decoding.interface import Rules
from ul2tune.decoding.sampling import SamplingConfig
from ul2tune.models import base
from ul2tune.models.t5gemma import T5GemmaConfig
from ul2tune.sharding import MeshConfig

MODELS = {"first": tiny.first(), "second": tiny.second()}


@functools.partial(jax.jit, static_argnums=0, compiler_options=examples.QUICK)
def logits(config: T5GemmaConfig, params, batch, key=None):
    return base.bind(config, params).logits(batch, dropout_key=key)


def one_layer(config: T5GemmaConfig, pattern: str, **encoder) -> T5GemmaConfig:
    """One layer per stack; local ones see two tokens to the left, themselves included."""
    changes: dict = {"num_layers": 1, "attention_pattern": pattern, "right_window": None}
    changes |= {"local_rope": None, "sliding_window": 2 if pattern == "L" else None}
    stacks = {side: dataclasses.replace(getattr(config, side), **changes) for side in
              ("encoder", "decoder")}  # fmt: skip
    stacks["encoder"] = dataclasses.replace(stacks["encoder"], **encoder)
    return dataclasses.replace(config, **stacks)


def dependencies(run, tokens: np.ndarray) -> list[str]:
    """Which of `tokens` [L] every position of ``run(rows)`` depends on."""
    rows = np.tile(tokens, (len(tokens) + 1, 1))
    rows[np.arange(1, len(rows)), np.arange(len(tokens))] += 10
    out_BLD = np.asarray(run(rows))
    depends_SL = np.abs(out_BLD[1:] - out_BLD[0]).max(axis=-1) > 1e-6
    return ["".join("x" if seen else "." for seen in row) for row in depends_SL.T]


@pytest.mark.parametrize(
    ("encoder", "mask"),
    [
        ({}, ["xx...", "xxx..", ".xxx.", "..xxx", "...xx"]),
        ({"right_window": 3}, ["xxx..", "xxxx.", ".xxxx", "..xxx", "...xx"]),
        ({"sliding_window": 3, "right_window": 1}, ["x....", "xx...", "xxx..", ".xxx.", "..xxx"]),
        ({"sliding_window": 9, "right_window": 2}, ["xx...", "xxx..", "xxxx.", "xxxxx", "xxxxx"]),
    ],
)
def test_encoders_windows_have_two_sides(encoder, mask):
    config = one_layer(MODELS["first"], "L", **encoder)
    model = base.bind(config, examples.params(config))

    def encode(tokens):
        return model.encode({"encoder_input_tokens": tokens})

    assert dependencies(encode, np.arange(7, 12)) == mask


@pytest.mark.parametrize("name", MODELS)
def test_decoders_see_the_past_and_all_of_the_encoder(name):
    config = one_layer(MODELS[name], "L")
    params, own = examples.params(config), np.array([0, 7, 8, 9])

    def batch(source, target):
        return {
            "encoder_input_tokens": source,
            "decoder_input_tokens": target,
            "decoder_target_tokens": np.ones_like(target),
        }

    def decode(tokens):
        return logits(config, params, batch(np.full((5, 3), 7), tokens))

    def read(tokens):
        target = np.tile(own, (len(tokens), 1))
        return logits(config, params, batch(tokens, target))

    assert dependencies(decode, own) == ["x...", "xx..", ".xx.", "..xx"]
    assert dependencies(read, np.arange(7, 11)) == ["xxxx"] * 4


@pytest.mark.parametrize("name", MODELS)
def test_packed_segments_are_alone(name):
    config = MODELS[name]
    params, packed = examples.params(config), examples.packed_batch()
    together_BLV = np.asarray(logits(config, params, packed))
    alone_BLV = np.asarray(logits(config, params, examples.batch()))
    rows = [(b, n) for b in range(2) for n in (1, 2)]
    for number, (row, segment) in enumerate(rows):
        mine_L = packed["decoder_segment_ids"][row] == segment
        own = alone_BLV[number, : mine_L.sum()]
        np.testing.assert_allclose(together_BLV[row, mine_L], own, atol=2e-5)
    for side in ("encoder", "decoder"):  # positions follow from the segments
        del packed[f"{side}_positions"]
    real_BL = packed["decoder_segment_ids"] != 0
    again_BLV = np.asarray(logits(config, params, packed))
    np.testing.assert_array_equal(again_BLV[real_BL], together_BLV[real_BL])


@functools.partial(jax.jit, static_argnums=0, compiler_options=examples.QUICK)
def decode(config: T5GemmaConfig, params, source, fed_LB):
    """Logits [B, L, V] of a decoder that is fed these tokens."""
    model = base.bind(config, params)

    def step(cache, x):
        index, tokens_B = x
        logits_BV, cache = model.decode_step(cache, tokens_B, index)
        return cache, logits_BV

    cache = model.start_decoding(source, max_decode_length=fed_LB.shape[0])
    indices_L = jnp.arange(fed_LB.shape[0])
    return jnp.moveaxis(jax.lax.scan(step, cache, (indices_L, fed_LB))[1], 0, 1)


@pytest.mark.parametrize("name", MODELS)
def test_decoding_is_teacher_forcing(name):
    config = MODELS[name]
    params, batch = examples.params(config), examples.batch()
    source = {"encoder_input_tokens": batch["encoder_input_tokens"]}
    decoded_BLV = decode(config, params, source, batch["decoder_input_tokens"].T)
    real_BL = batch["decoder_target_tokens"] != 0
    taught_BLV = np.asarray(logits(config, params, batch))
    np.testing.assert_allclose(np.asarray(decoded_BLV)[real_BL], taught_BLV[real_BL], atol=2e-5)
    with pytest.raises(ValueError, match="got a packed batch"):
        base.bind(config, params).start_decoding(examples.packed_batch(), max_decode_length=3)


def test_generation_depends_on_the_row_alone():
    config = MODELS["second"]
    params = examples.params(config)
    source_BS = examples.batch()["encoder_input_tokens"]

    @functools.partial(jax.jit, compiler_options=examples.QUICK)
    def run(source_BS):
        names_B2 = jnp.zeros((len(source_BS), 2), jnp.uint32)
        batch, sampling = {"encoder_input_tokens": source_BS}, SamplingConfig(max_decode_length=6)
        return generate(
            base.bind(config, params),
            batch,
            sampling,
            Rules(num_ids=examples.VOCAB, eos_id=31),
            names_B2,
        ).tokens_BL

    together = np.asarray(run(source_BS))
    assert len({tuple(row) for row in together}) > 1
    # Without the padding it had, beside an empty row.
    short = source_BS[:2, :7] * np.array([[1], [0]])
    alone = np.asarray(run(short))
    np.testing.assert_array_equal(alone[0], together[0])
    assert not alone[1].any()


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("first", {"remat": "full", "scan_layers": False}),
        ("second", {"attention": "chunked", "attention_chunk_tokens": 5, "remat": "dots"}),
    ],
)
def test_how_it_is_computed_changes_nothing(name, changes):
    examples.assert_same_gradients(MODELS[name], changes, examples.packed_batch())


def test_a_mesh_computes_the_same():
    config = MODELS["first"]
    params, batch = examples.params(config), examples.packed_batch()
    mesh = sharding.make_mesh(MeshConfig(data=2, fsdp=2, tensor=2))
    shardings = sharding.param_shardings(params, base.param_axes(config), mesh)
    twice = jax.tree.map(lambda x: np.concatenate([x, x]), batch)
    with jax.set_mesh(mesh):
        placed = jax.device_put(jax.device_get(params), shardings)
        rows = jax.device_put(twice, sharding.batch_sharding(mesh))
        run = jax.jit(lambda p, b: base.bind(config, p).logits(b), compiler_options=examples.QUICK)
        on_mesh = run(placed, rows)
    np.testing.assert_allclose(on_mesh[2:], logits(config, params, batch), atol=3e-5)


def test_the_start_token_and_the_end_of_images():
    config = MODELS["second"]
    params, batch = examples.params(config), examples.batch()
    other = dataclasses.replace(config, start_id=6)
    spelled = {**batch, "decoder_input_tokens": batch["decoder_input_tokens"].copy()}
    spelled["decoder_input_tokens"][:, 0] = 6
    np.testing.assert_array_equal(logits(other, params, batch), logits(config, params, spelled))
    # Scaled rows of the table where there is no such token.
    without = dataclasses.replace(config, eoi_id=None)
    row_D = params["token_embedding"][config.eoi_id] * config.encoder.d_model**0.5
    same = logits(config, {**params, "eoi_embedding": row_D}, batch)
    rest = {name: value for name, value in params.items() if name != "eoi_embedding"}
    np.testing.assert_allclose(same, logits(without, rest, batch), atol=1e-5)
    assert np.abs(same - logits(config, params, batch)).max() > 1e-2


def test_bfloat16_and_dropout_run():
    exact = MODELS["second"]
    rates = {"dropout_rate": 0.3, "attention_dropout_rate": 0.3}
    config = dataclasses.replace(exact, dtype="bfloat16", **rates)
    params, batch = examples.params(config), examples.packed_batch()
    rounded = logits(config, params, batch)
    assert rounded.dtype == jnp.float32
    np.testing.assert_allclose(rounded, logits(exact, params, batch), atol=0.4)
    one, again, two = (logits(config, params, batch, jax.random.key(n)) for n in (1, 1, 2))
    np.testing.assert_array_equal(one, again)
    assert np.abs(one - two).max() > 1e-2


@pytest.mark.parametrize(("side", "length"), [("encoder", 12), ("decoder", 8)])
def test_rows_beyond_the_model_are_refused(side, length):
    stack = dataclasses.replace(getattr(MODELS["first"], side), max_length=7)
    config = dataclasses.replace(MODELS["first"], **{side: stack})
    params = base.abstract_params(config)
    with pytest.raises(ValueError, match=rf"row of {length} tokens for the {side} .* = 7 \("):
        jax.eval_shape(lambda p: base.bind(config, p).hidden(examples.batch()), params)
