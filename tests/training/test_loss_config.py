"""What `LossConfig` promises of its numbers, and refuses."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ul2tune.training.loss import LossConfig, _Chunking


@given(
    batch_size=st.integers(1, 300), length=st.integers(1, 2048), chunk_tokens=st.integers(1, 9000)
)
def test_chunks_hold_no_more_tokens_than_asked(batch_size, length, chunk_tokens):
    """But for the least there can be: one position of every row."""
    size = _Chunking.of(batch_size, length, chunk_tokens).size
    assert 1 <= size <= length
    assert size == 1 or batch_size * size <= chunk_tokens


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
