"""Generation and scoring against the uncached model."""

from __future__ import annotations

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.decoding import tiny
from ul2tune.decoding.generate import generate
from ul2tune.decoding.interface import Rules
from ul2tune.decoding.sampling import SamplingConfig
from ul2tune.decoding.score import score
from ul2tune.models import base

EOS = 1


@functools.partial(jax.jit, static_argnames=("config", "num_ids"))
def run(params, inputs_BS, names_B2, config, num_ids=259):
    model = base.bind(tiny.MODEL, params)
    batch = {"encoder_input_tokens": inputs_BS}
    return generate(model, batch, config, Rules(num_ids=num_ids), names_B2).tokens_BL


@jax.jit
def teacher_forced(params, inputs_BS, targets_BL):
    batch = {
        "encoder_input_tokens": inputs_BS,
        "decoder_target_tokens": targets_BL,
        "decoder_input_tokens": jnp.pad(targets_BL, ((0, 0), (1, 0)))[:, :-1],
    }
    return base.bind(tiny.MODEL, params).logits(batch)


@pytest.fixture(scope="module")
def params():
    return tiny.params()


@pytest.fixture(scope="module")
def inputs_BS():
    rows = np.random.default_rng(0).integers(3, 259, (6, 10), dtype=np.int32)
    rows[np.arange(10)[None] >= np.array([10, 7, 3, 1, 5, 0])[:, None]] = 0  # the last is padding
    return rows


NAMES_B2 = np.stack([np.arange(6), np.arange(6) * 7], 1).astype(np.uint32)


def test_greedy_takes_what_the_uncached_model_finds_likeliest(params, inputs_BS):
    tokens_BL = np.asarray(run(params, inputs_BS, NAMES_B2, SamplingConfig(max_decode_length=8)))
    logits_BLV = np.array(teacher_forced(params, inputs_BS, tokens_BL))[:5, :, :259]
    logits_BLV[:, :, 0] = -np.inf
    assert np.array_equal(tokens_BL[:5], logits_BLV.argmax(-1))
    assert len(np.unique(tokens_BL[:5])) > 5
    assert not tokens_BL[5].any()


def test_sampling_stays_within_the_vocabulary(params, inputs_BS):
    config = SamplingConfig(max_decode_length=16, temperature=50.0)
    tokens_BL = np.asarray(run(params, inputs_BS, NAMES_B2, config, num_ids=20))
    assert tokens_BL.max() < 20
    assert len(np.unique(tokens_BL)) > 10


def test_a_row_does_not_depend_on_the_others(params, inputs_BS):
    config = SamplingConfig(max_decode_length=8, temperature=1.0, top_k=20, top_p=0.95)
    whole = np.asarray(run(params, inputs_BS, NAMES_B2, config))
    order = [4, 0, 2]
    part = np.asarray(run(params, inputs_BS[order], NAMES_B2[order], config))
    assert np.array_equal(part, whole[order])
    renamed = np.asarray(run(params, inputs_BS, NAMES_B2 + np.uint32(1), config))
    assert not np.array_equal(renamed, whole)


class Countdown:
    """Says EOS when its cache reaches zero; until then 2, and 9 where it was fed anything odd."""

    def start_decoding(self, batch, *, max_decode_length):
        return jnp.asarray(batch["encoder_input_tokens"])[:, 0]

    def unstacked(self):
        return self

    def decode_step(self, cache, tokens_B, index):
        expected_B = jnp.where(index == 0, 0, 2)
        token_B = jnp.where(tokens_B == expected_B, 2, 9)
        token_B = jnp.where(cache == index, EOS, token_B)
        return jax.nn.one_hot(token_B, 12), cache


def test_stops_at_the_end_of_sequence_and_pads():
    batch = {"encoder_input_tokens": jnp.array([[3], [1], [9], [0]])}
    names = jnp.zeros((4, 2), jnp.uint32)
    config = SamplingConfig(max_decode_length=6)
    written = generate(Countdown(), batch, config, Rules(num_ids=12), names)
    assert written.finite_B.all()
    assert written.tokens_BL.tolist() == [
        [2, 2, 2, EOS, 0, 0],
        [2, EOS, 0, 0, 0, 0],
        [2, 2, 2, 2, 2, 2],
        [0, 0, 0, 0, 0, 0],
    ]


def test_a_row_may_have_a_stop_of_its_own():
    """2 is what all rows say at first; a stop that is never said, or the end itself, is none."""
    batch = {"encoder_input_tokens": jnp.array([[3], [3], [1], [0]])}
    config = SamplingConfig(max_decode_length=5)
    stops_B = jnp.array([2, 7, EOS, 2])
    names = jnp.zeros((4, 2), jnp.uint32)
    written = generate(Countdown(), batch, config, Rules(num_ids=12, stops_B=stops_B), names)
    assert written.tokens_BL.tolist() == [
        [2, 0, 0, 0, 0],
        [2, 2, 2, EOS, 0],
        [2, EOS, 0, 0, 0],
        [0, 0, 0, 0, 0],
    ]


DRAWN = SamplingConfig(max_decode_length=6, temperature=1.0)
SEARCHED = SamplingConfig(max_decode_length=6, num_beams=6)
LIVE: dict[str, tuple[SamplingConfig, float]] = {
    "max_decode_length": (DRAWN, 5),
    "temperature": (DRAWN, 9.0),
    "top_k": (DRAWN, 1),
    "top_p": (DRAWN, 0.01),
    "seed": (DRAWN, 1),
    "num_beams": (SEARCHED, 2),
    "beam_alpha": (SEARCHED, 9.0),
}


@pytest.mark.parametrize("field", [field.name for field in dataclasses.fields(SamplingConfig)])
def test_every_field_changes_what_is_generated(params, inputs_BS, field):
    # A model that likes to end: short answers and long ones compete.
    params = {**params, "head": params["head"].at[EOS].multiply(3.0)}
    config, value = LIVE[field]
    before = run(params, inputs_BS, NAMES_B2, config)
    changed = dataclasses.replace(config, **{field: value})
    assert not np.array_equal(before, run(params, inputs_BS, NAMES_B2, changed))


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"temperature": 1.0},
        {"temperature": 1.0, "top_k": 3},
        {"temperature": 1.0, "top_p": 0.5},
    ],
)
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_logits_that_are_not_finite_are_told_by_row(bad, options):
    """At position 2, where one row has ended and one is padding; ids that are never generated do
    not matter, nor does one id of probability 0."""

    class Broken(Countdown):
        def decode_step(self, cache, tokens_B, index):
            logits_BV, cache = super().decode_step(cache, tokens_B, index)
            logits_BV = 100.0 * logits_BV.at[:, 10:].set(bad).at[:, 0].set(bad).at[:, 5].set(
                -np.inf
            )
            whole_BV = jnp.full_like(logits_BV, bad)
            one_BV = logits_BV if bad == -np.inf else logits_BV.at[:, 7].set(bad)
            broken_BV = jnp.where((cache == 8)[:, None], one_BV, whole_BV)
            sound_B = (index != 2) | (cache == 9)
            return jnp.where(sound_B[:, None], logits_BV, broken_BV), cache

    batch = {"encoder_input_tokens": jnp.array([[9], [1], [0], [7], [8]])}
    config = SamplingConfig(max_decode_length=6, **options)
    written = generate(Broken(), batch, config, Rules(num_ids=10), jnp.zeros((5, 2), jnp.uint32))
    assert written.finite_B.tolist() == [True, True, True, False, bad == -np.inf]
    assert written.tokens_BL[:3].tolist() == [[2] * 6, [2, EOS, 0, 0, 0, 0], [0] * 6]


def test_the_loop_ends_when_all_rows_have():
    calls = []

    class Counting(Countdown):
        def decode_step(self, cache, tokens_B, index):
            jax.debug.callback(lambda i: calls.append(int(i)), index)
            return super().decode_step(cache, tokens_B, index)

    batch = {"encoder_input_tokens": jnp.array([[2], [1]])}
    names = jnp.zeros((2, 2), jnp.uint32)
    generate(Counting(), batch, SamplingConfig(max_decode_length=50), Rules(num_ids=12), names)
    jax.effects_barrier()
    assert sorted(calls) == [0, 1, 2]


def test_scores_are_sums_of_log_softmax(params, inputs_BS):
    targets_BL = np.random.default_rng(1).integers(3, 259, (6, 5), dtype=np.int32)
    weights_BL = (np.arange(5)[None] < np.array([5, 4, 1, 2, 3, 0])[:, None]).astype(np.int32)
    targets_BL *= weights_BL
    batch = {
        "encoder_input_tokens": inputs_BS,
        "decoder_target_tokens": targets_BL,
        "decoder_input_tokens": np.pad(targets_BL, ((0, 0), (1, 0)))[:, :-1],
        "decoder_loss_weights": weights_BL,
    }
    got = jax.jit(lambda p, b: score(base.bind(tiny.MODEL, p), b))(params, batch)
    logps_BLV = jax.nn.log_softmax(teacher_forced(params, inputs_BS, targets_BL))
    chosen_BL = np.take_along_axis(np.asarray(logps_BLV), targets_BL[..., None], -1)[..., 0]
    expected_B = (chosen_BL * weights_BL).sum(-1)
    np.testing.assert_allclose(got.sum_B, expected_B, rtol=1e-5, atol=1e-5)
    assert got.length_B.tolist() == [5, 4, 1, 2, 3, 0]


def test_scores_follow_the_logit_softcap():
    class Capped:
        logit_softcap = 2.0

        def hidden(self, batch):
            return jnp.array([[[3.0, 1.0]]])

        def head_kernel(self):
            return jnp.eye(2)

    batch = {"decoder_target_tokens": jnp.array([[1]]), "decoder_loss_weights": jnp.array([[1]])}
    logits = 2 * np.tanh(np.array([3.0, 1.0]) / 2)
    expected = logits[1] - np.log(np.exp(logits).sum())
    assert float(score(Capped(), batch).sum_B[0]) == pytest.approx(expected, abs=1e-6)
