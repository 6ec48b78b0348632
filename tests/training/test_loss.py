"""The weights and the normaliser of the loss; what `LossConfig` refuses."""

from __future__ import annotations

import math

import jax.numpy as jnp
import numpy as np
import pytest

from ul2tune.training.loss import LossConfig, loss_weights

PACKED = {
    "decoder_target_tokens": np.array([[5, 6, 1, 7, 1, 0, 0], [5, 1, 6, 6, 7, 7, 1]]),
    "decoder_loss_weights": np.array([[1, 1, 1, 0.5, 1, 0, 0], [0, 0, 1, 1, 1, 1, 1]]),
    "decoder_segment_ids": np.array([[1, 1, 1, 2, 2, 0, 0], [1, 1, 2, 2, 2, 2, 2]]),
}


@pytest.mark.parametrize(
    ("mode", "expected"),
    [
        (None, 1.0),
        ("sum", 1.0),
        (7, 7.0),
        ("num_real_target_tokens", 9.5),
        ("NUM_REAL_TARGET_TOKENS", 9.5),
        ("num_total_target_tokens", 14.0),
    ],
)
def test_normalizers_that_leave_the_weights_alone(mode, expected):
    weights_BL, normalizer = loss_weights(PACKED, LossConfig(normalizer=mode))
    assert normalizer == expected
    np.testing.assert_array_equal(weights_BL, PACKED["decoder_loss_weights"])


def test_average_per_sequence_weighs_segments_equally():
    config = LossConfig(normalizer="average_per_sequence")
    weights_BL, normalizer = loss_weights(PACKED, config)
    third, fifth = 1 / 3, 0.2
    expected = [[third] * 3 + [third, 2 * third, 0, 0], [0, 0] + [fifth] * 5]
    np.testing.assert_allclose(weights_BL, expected, rtol=1e-6)
    np.testing.assert_allclose(normalizer, 3.0, rtol=1e-6)  # a segment without weight is none

    rows = {k: v for k, v in PACKED.items() if k != "decoder_segment_ids"}
    weights_BL, normalizer = loss_weights(rows, config)
    np.testing.assert_allclose(jnp.sum(weights_BL, 1), [1, 1], rtol=1e-6)
    np.testing.assert_allclose(normalizer, 2.0, rtol=1e-6)


def test_segments_without_targets_take_numbers_but_no_weight():
    batch = {
        "decoder_target_tokens": np.array([[9, 1, 7, 0], [7, 1, 0, 0]]),
        "decoder_segment_ids": np.array([[1, 1, 6, 0], [6, 6, 0, 0]]),  # beyond the row's length
    }
    weights_BL, normalizer = loss_weights(batch, LossConfig(normalizer="average_per_sequence"))
    np.testing.assert_allclose(weights_BL, [[0.5, 0.5, 1, 0], [0.5, 0.5, 0, 0]], rtol=1e-6)
    np.testing.assert_allclose(normalizer, 3.0, rtol=1e-6)


def test_normalizer_goldens(shared):
    golden = np.load(shared / "golden/ul2/losses.npz")
    # The batch behind them, read off the results: segments of 3 and 2, of 4 and 3 targets.
    segments = np.array([[1, 1, 1, 2, 2, 0, 0, 0], [1, 1, 1, 1, 2, 2, 2, 0]])
    batch = {"decoder_target_tokens": segments, "decoder_segment_ids": segments}
    for mode in ("NUM_REAL_TARGET_TOKENS", "NUM_TOTAL_TARGET_TOKENS", "AVERAGE_PER_SEQUENCE"):
        weights_BL, normalizer = loss_weights(batch, LossConfig(normalizer=mode))
        np.testing.assert_allclose(normalizer, golden[f"lnf_{mode}"], rtol=1e-6)
        np.testing.assert_allclose(weights_BL, golden[f"lnf_w_{mode}"], rtol=1e-6)


def test_a_batch_without_weights_counts_targets_and_one_without_targets_has_loss_zero():
    targets = {"decoder_target_tokens": PACKED["decoder_target_tokens"]}
    weights_BL, normalizer = loss_weights(targets, LossConfig())
    assert normalizer == 12
    np.testing.assert_array_equal(weights_BL, PACKED["decoder_target_tokens"] > 0)
    for mode in ("num_real_target_tokens", "average_per_sequence"):
        empty = {"decoder_target_tokens": np.zeros((2, 7), np.int32)}
        weights_BL, normalizer = loss_weights(empty, LossConfig(normalizer=mode))
        assert jnp.sum(weights_BL) / normalizer == 0


def test_padding_of_packed_rows_is_no_sequence_even_with_weights():
    """T5X clears it: here its weights would count as two sequences more."""
    batch = {
        "decoder_target_tokens": np.array([[9, 1, 7, 5], [4, 4, 4, 4]]),
        "decoder_segment_ids": np.array([[1, 1, 2, 0], [0, 0, 0, 0]]),
        "decoder_loss_weights": np.ones((2, 4), np.float32),
    }
    weights_BL, normalizer = loss_weights(batch, LossConfig(normalizer="average_per_sequence"))
    np.testing.assert_allclose(weights_BL, [[0.5, 0.5, 1, 0], [0, 0, 0, 0]], rtol=1e-6)
    np.testing.assert_allclose(normalizer, 2.0, rtol=1e-6)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"normalizer": "mean"}, "'mean' is unknown; use a number, None .* num_real_target_tokens"),
        ({"normalizer": 0}, "normalizer = 0 must be a positive number"),
        ({"z_loss": -1.0}, "z_loss = -1.0 is not a number of at least 0"),
        ({"label_smoothing": 1.0}, "label_smoothing = 1.0 is not in"),
        ({"chunk_tokens": 0}, "chunk_tokens = 0 must be at least 1"),
        ({"normalizer": math.nan}, "normalizer = nan must be a positive number"),
        ({"normalizer": math.inf}, "normalizer = inf must be a positive number"),
        ({"normalizer": True}, "normalizer = True must be a positive number"),
        ({"z_loss": math.nan}, "z_loss = nan is not a number of at least 0"),
        ({"z_loss": math.inf}, "z_loss = inf is not a number of at least 0"),
    ],
)
def test_wrong_configurations_are_refused(values, message):
    with pytest.raises(ValueError, match=message):
        LossConfig(**values)
