"""What `LossConfig` promises of its numbers, and refuses."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ul2tune.training.loss import LossConfig, _Chunking, loss_weights


@given(
    batch_size=st.integers(1, 300), length=st.integers(1, 2048), chunk_tokens=st.integers(1, 9000)
)
def test_chunks_hold_no_more_tokens_than_asked(batch_size, length, chunk_tokens):
    """But for the least there can be: one position of every row."""
    size = _Chunking.of(batch_size, length, chunk_tokens).size
    assert 1 <= size <= length
    assert size == 1 or batch_size * size <= chunk_tokens


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
        ({"normalizer": math.nan}, "normalizer = nan must be a positive number"),
        ({"normalizer": math.inf}, "normalizer = inf must be a positive number"),
        ({"normalizer": True}, "normalizer = True must be a positive number"),
        ({"z_loss": math.nan}, "z_loss = nan is not a number of at least 0"),
        ({"z_loss": math.inf}, "z_loss = inf is not a number of at least 0"),
    ],
)
def test_what_is_no_number_is_refused(values, message):
    with pytest.raises(ValueError, match=message):
        LossConfig(**values)
