"""Decoder-only models: who sees whom, packing, decoding, how it is computed."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from tests import compiling
from tests.models import decoder_examples as tiny
from tests.models import examples
from ul2tune import sharding
from ul2tune.decoding.generate import generate
from ul2tune.decoding.interface import Rules
from ul2tune.decoding.sampling import SamplingConfig
from ul2tune.models import base
from ul2tune.models.decoder import DecoderConfig
from ul2tune.sharding import MeshConfig

FAMILIES = {"gemma": tiny.gemma(), "opt": tiny.opt(), "t5": tiny.t5()}


@functools.partial(jax.jit, static_argnums=0, compiler_options=examples.QUICK)
def logits(config: DecoderConfig, params, batch, key=None):
    return base.bind(config, params).logits(batch, dropout_key=key)


@functools.partial(jax.jit, static_argnums=(0, 3), compiler_options=examples.QUICK)
def decode(config: DecoderConfig, params, prompt, steps: int, forced_BL):
    """Logits [B, steps, V] of a prompt's continuation that is given."""
    model = base.bind(config, params)

    def step(cache, x):
        index, tokens_B = x
        logits_BV, cache = model.decode_step(cache, tokens_B, index)
        return cache, logits_BV

    # Step i reads what step i - 1 should have said; step 0 reads the prompt, whatever it is given.
    fed_LB = jnp.roll(forced_BL, 1, axis=1).T
    cache = model.start_decoding(prompt, max_decode_length=steps)
    return jnp.moveaxis(jax.lax.scan(step, cache, (jnp.arange(steps), fed_LB))[1], 0, 1)


def prompt_of(batch, layout: str) -> dict[str, Any]:
    """The prompts of unpacked rows: all before the first position with a loss weight, and it."""
    real_BL = np.cumsum(batch["decoder_loss_weights"], axis=1) <= 1
    real_BL[batch["decoder_loss_weights"].argmax(axis=1)[:, None] < np.arange(tiny.LENGTH)] = False
    prompt = {
        "decoder_input_tokens": batch["decoder_input_tokens"] * real_BL,
        "decoder_segment_ids": real_BL.astype(np.int32),
    }
    if layout == "prefix_lm":
        prompt["decoder_causal_attention"] = batch["decoder_causal_attention"]
    return prompt


@pytest.mark.parametrize(
    ("local", "layout", "mask"),
    [
        (False, "causal_lm", ["x....", "xx...", "xxx..", "xxxx.", "xxxxx"]),
        (False, "prefix_lm", ["xxx..", "xxx..", "xxx..", "xxxx.", "xxxxx"]),
        (True, "causal_lm", ["x....", "xx...", ".xx..", "..xx.", "...xx"]),
        (True, "prefix_lm", ["xx...", "xxx..", ".xx..", "..xx.", "...xx"]),
    ],
)
def test_what_a_position_depends_on(local, layout, mask):
    """One layer over a document with a prefix of three; local ones see two tokens."""
    window = {"attention_pattern": "L", "sliding_window": 2} if local else {"local_rope": None}
    plain = {"attention_pattern": "G", "sliding_window": None}
    config = tiny.gemma(num_layers=1, **{**plain, **window})
    # In row s + 1 token s is another one.
    tokens = np.tile([2, 7, 8, 9, 10], (6, 1))
    tokens[np.arange(1, 6), np.arange(5)] += 10
    batch = {"decoder_input_tokens": tokens}
    if layout == "prefix_lm":
        batch["decoder_causal_attention"] = np.tile([1, 1, 1, 0, 0], (6, 1))
    rows_BLV = np.asarray(logits(config, examples.params(config), batch))
    depends_SL = np.abs(rows_BLV[1:] - rows_BLV[0]).max(axis=-1) > 1e-6
    assert ["".join("x" if seen else "." for seen in row) for row in depends_SL.T] == mask


@pytest.mark.parametrize("layout", ["prefix_lm", "causal_lm"])
@pytest.mark.parametrize("name", FAMILIES)
def test_packed_documents_are_alone(name, layout):
    config = FAMILIES[name]
    params = examples.params(config)
    packed, apart = tiny.packed_batch(layout), tiny.batch(layout)
    together_BLV = logits(config, params, packed)
    alone_BLV = logits(config, params, apart)
    rows = [(b, n) for b, row in enumerate(tiny.ROWS) for n in range(1, len(row) + 1)]
    for number, (row, segment) in enumerate(rows):
        mine_L = packed["decoder_segment_ids"][row] == segment
        own = alone_BLV[number, : mine_L.sum()]
        np.testing.assert_allclose(together_BLV[row, mine_L], own, atol=2e-5)
    # Positions are those of the documents also where the batch does not say them.
    del packed["decoder_positions"]
    real_BL = packed["decoder_segment_ids"] != 0
    np.testing.assert_array_equal(logits(config, params, packed)[real_BL], together_BLV[real_BL])


@pytest.mark.parametrize("layout", ["prefix_lm", "causal_lm"])
@pytest.mark.parametrize("name", FAMILIES)
def test_decoding_is_teacher_forcing_whatever_the_prompts_lengths(name, layout):
    config = FAMILIES[name]
    params, batch = examples.params(config), tiny.batch(layout)
    lengths_B = batch["decoder_loss_weights"].argmax(axis=1)  # of the prompts: 4, 2 and 3
    steps = 3
    padded_BL = np.pad(batch["decoder_target_tokens"], ((0, 0), (0, steps)))
    forced_BL = np.stack([row[n:][:steps] for row, n in zip(padded_BL, lengths_B)])
    taught_BLV = np.asarray(logits(config, params, batch))
    decoded_BLV = np.asarray(decode(config, params, prompt_of(batch, layout), steps, forced_BL))
    for row, length in enumerate(lengths_B):
        real = slice(0, batch["decoder_loss_weights"][row].sum())
        expected = taught_BLV[row, length : length + steps][real]
        np.testing.assert_allclose(decoded_BLV[row][real], expected, atol=2e-5)


def test_generation_depends_on_the_prompt_alone():
    config = FAMILIES["gemma"]
    params = examples.params(config)
    prompt = prompt_of(tiny.batch(), "prefix_lm")

    @functools.partial(jax.jit, compiler_options=examples.QUICK)
    def run(prompt):
        names_B2 = jnp.zeros((len(prompt["decoder_input_tokens"]), 2), jnp.uint32)
        sampling = SamplingConfig(max_decode_length=6)
        return generate(
            base.bind(config, params),
            prompt,
            sampling,
            Rules(num_ids=tiny.VOCAB, eos_id=31),
            names_B2,
        ).tokens_BL

    together = np.asarray(run(prompt))
    for row in range(3):
        # Alone, without the padding it had, and beside an empty row.
        length = prompt["decoder_segment_ids"][row].sum()
        alone = {k: np.stack([v[row, :length], 0 * v[row, :length]]) for k, v in prompt.items()}
        tokens = np.asarray(run(alone))
        np.testing.assert_array_equal(tokens[0], together[row])
        assert not tokens[1].any()
    assert len({tuple(row) for row in together}) > 1


def test_without_segment_ids_a_prompt_ends_at_its_last_token():
    config = FAMILIES["opt"]
    params, prompt = examples.params(config), prompt_of(tiny.batch("causal_lm"), "causal_lm")
    forced_BL = np.full((3, 2), 5)
    options = examples.QUICK | compiling.USUAL
    run = jax.jit(decode.__wrapped__, static_argnums=(0, 3), compiler_options=options)
    with_ids = run(config, params, prompt, 2, forced_BL)
    del prompt["decoder_segment_ids"]
    np.testing.assert_array_equal(run(config, params, prompt, 2, forced_BL), with_ids)


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("opt", {"remat": "full", "scan_layers": False}),
        ("gemma", {"attention": "chunked", "attention_chunk_tokens": 5, "remat": "dots"}),
        ("t5", {"attention": "chunked", "attention_chunk_tokens": 5, "scan_layers": False}),
    ],
)
def test_how_it_is_computed_changes_nothing(name, changes):
    examples.assert_same_gradients(FAMILIES[name], changes, tiny.packed_batch())


def test_a_mesh_that_splits_more_ways_than_there_are_key_heads():
    config = tiny.gemma(num_kv_heads=1, vocab_size=32)
    params, batch = examples.params(config), tiny.packed_batch()
    mesh = sharding.make_mesh(MeshConfig(data=2, fsdp=2, tensor=2))
    shardings = sharding.param_shardings(params, base.param_axes(config), mesh)
    assert shardings["layers"]["attention"]["key"].spec == P(None, "fsdp", None, None)
    assert shardings["layers"]["attention"]["query"].spec == P(None, "fsdp", "tensor", None)
    twice = jax.tree.map(lambda x: np.concatenate([x, x]), batch)
    with jax.set_mesh(mesh):
        placed = jax.device_put(jax.device_get(params), shardings)
        rows = jax.device_put(twice, sharding.batch_sharding(mesh))
        on_mesh = jax.jit(lambda p, b: base.bind(config, p).logits(b))(placed, rows)
    expected = logits(config, params, batch)
    np.testing.assert_allclose(on_mesh[2:], expected, atol=3e-5)


def test_documents_begin_with_the_start_token():
    config = FAMILIES["gemma"]
    params, tokens = examples.params(config), np.array([[0, 7, 0, 9]])
    starts = dataclasses.replace(config, start_id=5)
    spelled = np.array([[5, 7, 0, 9]])  # the second 0 is a token
    np.testing.assert_array_equal(
        logits(starts, params, {"decoder_input_tokens": tokens}),
        logits(config, params, {"decoder_input_tokens": spelled}),
    )


@pytest.mark.parametrize("name", FAMILIES)
def test_bfloat16_and_dropout_run(name):
    weights = {} if name == "t5" else {"attention_dropout_rate": 0.3}
    config = dataclasses.replace(FAMILIES[name], dtype="bfloat16", dropout_rate=0.3, **weights)
    params, batch = examples.params(config), tiny.packed_batch()
    exact = logits(FAMILIES[name], params, batch)
    rounded = logits(config, params, batch)
    assert rounded.dtype == jnp.float32
    np.testing.assert_allclose(rounded, exact, atol=0.3)
    first, again, other = (logits(config, params, batch, jax.random.key(n)) for n in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert np.abs(first - other).max() > 1e-2


def test_rows_beyond_the_model_are_refused():
    config = tiny.opt(max_length=8)
    params = base.abstract_params(config)
    with pytest.raises(ValueError, match=r"row of 12 tokens .*max_length = 8"):
        jax.eval_shape(lambda p: base.bind(config, p).hidden(tiny.batch()), params)
    prompt = {"decoder_input_tokens": np.ones((1, 5), np.int32)}

    def start(params, steps):
        return base.bind(config, params).start_decoding(prompt, max_decode_length=steps)

    jax.eval_shape(lambda p: start(p, 4), params)
    with pytest.raises(ValueError, match="row of 9 tokens"):
        jax.eval_shape(lambda p: start(p, 5), params)
