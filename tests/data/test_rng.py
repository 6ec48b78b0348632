"""Counter-based randomness and the replica of TensorFlow's."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ul2tune.data import rng, tf_rng

KEYS = st.integers(min_value=0, max_value=2**64 - 1)
property_test = settings(max_examples=50, deadline=None, derandomize=True)


def test_bits_are_the_splitmix64_stream():
    # Published output of SplitMix64 for seed 1234567 (Vigna's reference code).
    expected = [
        6457827717110365317,
        3203168211198807973,
        9817491932198370423,
        4593380528125082431,
        16408922859458223821,
    ]
    assert rng.bits(np.array([1234567], np.uint64), 5)[0].tolist() == expected


def test_streams_never_change():
    """A resumed run draws what the stopped one would have: changing these numbers breaks that."""
    assert int(rng.fold_in(42, 1, 2)) == 13307383170572130491
    assert rng.randint(rng.fold_in(0, np.arange(5)), 0, 100).tolist() == [98, 83, 96, 77, 14]


@property_test
@given(key=KEYS, values=st.lists(st.integers(-(2**63), 2**63 - 1), max_size=4))
def test_fold_in_is_one_value_at_a_time(key, values):
    folded = key
    for value in values:
        folded = int(rng.fold_in(folded, value))
    assert folded == int(rng.fold_in(key, *values))


def test_fold_in_depends_on_order_and_accepts_any_integer():
    assert rng.fold_in(1, 2, 3) != rng.fold_in(1, 3, 2)
    assert rng.fold_in(-1, 5) == rng.fold_in(2**64 - 1, 5)
    assert rng.fold_in(7, np.int64(-1)) == rng.fold_in(7, -1)
    assert rng.fold_in(np.uint64(3), np.arange(4)).shape == (4,)


@property_test
@given(keys=st.lists(KEYS, min_size=1, max_size=8), n=st.integers(0, 9), row=st.integers(0, 7))
def test_row_depends_on_its_key_only(keys, n, row):
    row %= len(keys)
    keys = np.array(keys, np.uint64)
    together, alone = rng.bits(keys, n + 3), rng.bits(keys[row : row + 1], n)
    np.testing.assert_array_equal(together[row, :n], alone[0])
    np.testing.assert_array_equal(rng.bits_at(keys[row], np.arange(n)), alone[0])


def test_uniform_is_uniform():
    draws = rng.uniform(rng.fold_in(0, np.arange(1000)), 100)
    assert draws.min() >= 0.0
    assert draws.max() < 1.0
    counts = np.histogram(draws, bins=20, range=(0, 1))[0]
    chi_square = np.sum((counts - 5000.0) ** 2 / 5000.0)
    assert chi_square < 43.8  # 99.9th percentile, 19 degrees of freedom
    # Neighbouring counters and neighbouring keys are uncorrelated (5 standard errors).
    assert abs(np.corrcoef(draws[:, :-1].ravel(), draws[:, 1:].ravel())[0, 1]) < 5 / 99000**0.5
    assert abs(np.corrcoef(draws[:-1].ravel(), draws[1:].ravel())[0, 1]) < 5 / 99900**0.5


def test_randint_reaches_both_bounds_and_nothing_else():
    keys = rng.fold_in(3, np.arange(4000))
    drawn = rng.randint(keys, -2, np.where(np.arange(4000) % 2, 1, 4))
    assert set(drawn[0::2]) == {-2, -1, 0, 1, 2, 3}
    assert set(drawn[1::2]) == {-2, -1, 0}


def test_choice_follows_unnormalised_rates_and_never_draws_zero():
    drawn = rng.choice(rng.fold_in(1, np.arange(40_000)), [0.0, 2.0, 0.0, 6.0, 0.0])
    shares = np.bincount(drawn, minlength=5) / drawn.size
    np.testing.assert_allclose(shares, [0, 0.25, 0, 0.75, 0], atol=5 * (0.1875 / 40_000) ** 0.5)
    assert shares[0] == shares[2] == shares[4] == 0


def test_normal_has_unit_moments():
    drawn = rng.normal(rng.fold_in(1, np.arange(40_000)))
    assert abs(drawn.mean()) < 0.025
    assert abs(drawn.std() - 1.0) < 0.02
    assert abs(np.mean(np.abs(drawn) < 1.0) - 0.6827) < 0.012


@pytest.mark.parametrize(
    ("key", "counter", "expected"),
    [
        # Known answers of the Random123 distribution for philox4x32-10.
        ((0, 0), (0, 0, 0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
        (
            (0xFFFFFFFF, 0xFFFFFFFF),
            (0xFFFFFFFF,) * 4,
            (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD),
        ),
    ],
)
def test_philox_known_answers(key, counter, expected):
    assert tuple(tf_rng.philox(key, np.array([counter], np.uint64))[0]) == expected


@pytest.mark.parametrize(
    ("seed", "expected"),
    [
        (-3, [294563667, 1210049117]),
        (2**31 - 1, [361556241, 1459367533]),
        (2**31 + 5, [3369228234, 269470695]),
        (123456789012, [1607915532, 2986071328]),
    ],
)
def test_dataset_seeds_of_any_size_are_truncated_as_tensorflow_does(seed, expected):
    """The numbers are those of `tf.data.Dataset.random(seed)`, TensorFlow 2.21."""
    assert tf_rng.dataset_random(seed, 2).tolist() == expected


def test_tensorflow_replica_matches_golden(shared):
    golden = np.load(shared / "golden/ul2/rng.npz")
    low = -5 if (golden["uniform_i32_101_min5_max1003"] < 5).any() else 5
    for i, seed in enumerate(golden["seeds"]):
        equal = np.testing.assert_array_equal
        equal(tf_rng.stateless_uniform(seed, 101), golden["uniform_f32_101"][i])
        equal(
            tf_rng.stateless_uniform(seed, 101, low, 1003),
            golden["uniform_i32_101_min5_max1003"][i],
        )
        equal(tf_rng.stateless_split(seed, 6), golden["split6_i64"][i])
        equal(tf_rng.stateless_shuffle(np.arange(50), seed), golden["shuffle_arange50"][i])
    for seed in (42, 43):
        drawn = tf_rng.dataset_random(seed, 64)
        np.testing.assert_array_equal(drawn, golden[f"dataset_random_seed{seed}"])
