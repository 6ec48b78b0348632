"""Choosing the next token."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ul2tune.decoding import sampling
from ul2tune.decoding.sampling import SamplingConfig

PROBABILITIES = np.array([0.05, 0.5, 0.15, 0.3], np.float32)
LOGITS_BV = jnp.log(jnp.asarray(PROBABILITIES))[None]


def kept(logits_BV) -> list[int]:
    return np.flatnonzero(np.isfinite(np.asarray(logits_BV)[0])).tolist()


def draws(config: SamplingConfig, count: int = 4000) -> np.ndarray:
    names = jnp.stack([jnp.zeros(count, jnp.uint32), jnp.arange(count, dtype=jnp.uint32)], 1)
    keys = sampling.row_keys(config.seed, names)
    logits = jnp.broadcast_to(LOGITS_BV, (count, 4))
    return np.asarray(sampling.next_tokens(logits, config, keys, 0))


def test_top_k_keeps_the_k_likeliest():
    assert kept(sampling.keep_top_k(LOGITS_BV, 1)) == [1]
    assert kept(sampling.keep_top_k(LOGITS_BV, 3)) == [1, 2, 3]
    assert kept(sampling.keep_top_k(LOGITS_BV, 99)) == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("p", "expected"),
    [(1e-50, [1]), (0.01, [1]), (0.49, [1]), (0.51, [1, 3]), (0.7, [1, 3]), (0.81, [1, 2, 3])],
)
def test_top_p_keeps_the_smallest_set_that_reaches_p(p, expected):
    assert kept(sampling.keep_top_p(LOGITS_BV, p)) == expected


def test_draws_follow_the_probabilities():
    counts = np.bincount(draws(SamplingConfig(temperature=1.0)), minlength=4) / 4000
    assert counts == pytest.approx(PROBABILITIES, abs=0.03)
    flat = np.bincount(draws(SamplingConfig(temperature=100.0)), minlength=4) / 4000
    assert flat == pytest.approx(np.full(4, 0.25), abs=0.03)
    two = np.bincount(draws(SamplingConfig(temperature=1.0, top_k=2)), minlength=4) / 4000
    assert two == pytest.approx([0, 0.625, 0, 0.375], abs=0.03)
    nucleus = np.bincount(draws(SamplingConfig(temperature=1.0, top_p=0.6)), minlength=4) / 4000
    assert nucleus == pytest.approx([0, 0.625, 0, 0.375], abs=0.03)


def test_greedy_takes_the_lowest_id_of_a_tie():
    logits_BV = jnp.array([[0.0, 2.0, 2.0], [1.0, 0.0, 0.0]])
    keys = sampling.row_keys(0, jnp.zeros((2, 2), jnp.uint32))
    assert sampling.next_tokens(logits_BV, SamplingConfig(), keys, 0).tolist() == [1, 0]


def test_the_coldest_draw_is_the_likeliest_token():
    logits_BV = jnp.array([[-jnp.inf, 3e4, 4e4, 1.0], [-jnp.inf, -4e4, -3e4, -1e30]])
    keys = sampling.row_keys(0, jnp.zeros((2, 2), jnp.uint32))
    for options in ({}, {"top_p": 0.5}, {"top_k": 99}):
        config = SamplingConfig(temperature=1e-6, **options)
        assert sampling.next_tokens(logits_BV, config, keys, 0).tolist() == [2, 2]


def test_a_draw_depends_on_seed_name_and_step_only():
    config = SamplingConfig(temperature=1.0)
    all_rows = draws(config, 64)
    assert np.array_equal(draws(config, 8), all_rows[:8])
    assert not np.array_equal(draws(SamplingConfig(temperature=1.0, seed=1), 64), all_rows)
    keys = sampling.row_keys(0, jnp.zeros((1, 2), jnp.uint32))
    steps = [int(sampling.next_tokens(LOGITS_BV, config, keys, step)[0]) for step in range(40)]
    assert len(set(steps)) > 1
    high = sampling.row_keys(0, jnp.array([[1, 0]], jnp.uint32))
    assert jax.random.key_data(high).tolist() != jax.random.key_data(keys).tolist()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_decode_length": 0}, "max_decode_length must be positive, got 0"),
        ({"temperature": -1.0}, "temperature must be 0"),
        ({"temperature": 1e-38}, "at least 1e-06 .* got 1e-38"),
        ({"temperature": float("inf")}, "finite .* got inf"),
        ({"temperature": float("nan")}, "got nan"),
        ({"temperature": 1.0, "top_k": -1}, "top_k must be 0"),
        ({"temperature": 1.0, "top_p": 0.0}, "top_p must be in"),
        ({"seed": 2**32}, "seed must be in .* got 4294967296"),
        ({"top_k": 5}, "top_k = 5 .* do nothing with temperature = 0"),
        ({"top_p": 0.9}, "top_p = 0.9 do nothing"),
        ({"num_beams": 0}, r"num_beams must be 1 \(no beam search\) or more, got 0"),
        ({"num_beams": 4, "beam_alpha": -0.1}, "beam_alpha must be 0 or more.* got -0.1"),
        ({"num_beams": 4, "beam_alpha": float("nan")}, "beam_alpha .* got nan"),
        (
            {"num_beams": 4, "temperature": 0.7},
            "temperature = 0.7, .* do nothing with num_beams = 4",
        ),
        ({"num_beams": 4, "top_k": 5}, "top_k = 5 .* beam search draws nothing"),
        ({"beam_alpha": 1.0}, "beam_alpha = 1.0 does nothing with num_beams = 1. Set num_beams"),
    ],
)
def test_configuration_errors(options, message):
    with pytest.raises(ValueError, match=message):
        SamplingConfig(**options)
