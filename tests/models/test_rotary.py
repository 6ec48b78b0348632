from __future__ import annotations

import math

import jax.numpy as jnp
import numpy as np
import pytest

from ul2tune.models.rotary import Rope

LLAMA3 = Rope(
    theta=5e5,
    scaling="llama3",
    factor=8.0,
    low_freq_factor=1.0,
    high_freq_factor=4.0,
    original_length=8192,
)


def test_frequencies_are_a_geometric_series():
    np.testing.assert_allclose(Rope(theta=100.0).frequencies(4), [1.0, 0.1], rtol=1e-6)
    linear = Rope(theta=100.0, scaling="linear", factor=4.0)
    np.testing.assert_allclose(linear.frequencies(4), [0.25, 0.025], rtol=1e-6)


def test_llama3_slows_what_turns_less_than_once():
    plain = Rope(theta=5e5).frequencies(128)
    share = LLAMA3.frequencies(128) / plain
    turns = 8192 * plain / (2 * np.pi)
    assert np.all(share[turns > 4] == 1.0)
    np.testing.assert_allclose(share[turns < 1], 1 / 8)
    between = (turns > 1) & (turns < 4)
    assert between.any()
    expected = 1 / 8 + (turns[between] - 1) / 3 * (1 - 1 / 8)
    np.testing.assert_allclose(share[between], expected, rtol=1e-4)


def test_a_rotation_by_hand():
    x_BLHA = jnp.array([1.0, 2.0, 3.0, 4.0]).reshape(1, 1, 1, 4)
    rotated = Rope(theta=100.0).at(jnp.array([[5]]), 4)(x_BLHA).reshape(4)
    # Components 0 and 2 turn by 5, components 1 and 3 by 0.5.
    pairs = np.array([1 + 3j, 2 + 4j]) * np.exp(1j * np.array([5.0, 0.5]))
    np.testing.assert_allclose(rotated, [*np.real(pairs), *np.imag(pairs)], rtol=1e-5)


def test_only_distances_matter():
    rng = np.random.default_rng(0)
    query, key = (jnp.asarray(rng.normal(size=(1, 1, 1, 8)), jnp.float32) for _ in range(2))
    rope = Rope(theta=50.0)

    def product(i: int, j: int) -> float:
        return float(
            jnp.sum(rope.at(jnp.array([[i]]), 8)(query) * rope.at(jnp.array([[j]]), 8)(key))
        )

    assert product(7, 3) == pytest.approx(product(104, 100), abs=1e-4)
    assert product(7, 3) != pytest.approx(product(3, 7), abs=1e-2)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"scaling": "yarn"}, "scaling = 'yarn' is not one of"),
        ({"theta": 0.0}, "theta = 0.0 and"),
        ({"theta": math.nan}, "theta = nan and"),
        ({**vars(LLAMA3), "factor": math.inf}, "factor = inf must be positive"),
        ({**vars(LLAMA3), "original_length": 0}, "original_length = 0 must be at least 1"),
        ({"factor": 2.0}, "factor = 2.0 does nothing"),
        ({"scaling": "llama3", "factor": 8.0}, "low_freq_factor = None .* needs them all"),
        ({"original_length": 4}, "original_length = 4 with scaling = 'none'"),
        ({**vars(LLAMA3), "low_freq_factor": 4.0}, "low_freq_factor = 4.0 must be positive and"),
    ],
)
def test_nonsense_is_refused(values, message):
    with pytest.raises(ValueError, match=message):
        Rope(**values)
