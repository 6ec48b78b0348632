"""Documents to segments."""

import hashlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ul2tune.data import chunks
from ul2tune.data.ragged import Ragged

ROWS = st.lists(st.lists(st.integers(0, 9), max_size=30), max_size=12)
property_test = settings(max_examples=60, deadline=None, derandomize=True)


@pytest.fixture(scope="module")
def documents() -> Ragged:
    """The synthetic documents the goldens were made from."""
    return Ragged.from_rows(
        [(i * 1009 + np.arange(50 + (i * 37) % 400) * 31) % 31000 + 3 for i in range(512)]
    )


@property_test
@given(rows=ROWS, size=st.integers(1, 9))
def test_splitting_and_joining_keep_every_token(rows, size):
    ragged = Ragged.from_rows(rows)
    pieces = chunks.split_tokens(ragged, size)
    assert pieces.values.tolist() == [token for row in rows for token in row]
    assert all(1 <= length <= size for length in pieces.lengths)
    joined = chunks.concat_tokens(ragged, size)
    assert len(joined) == -(-len(rows) // size)
    expected = [
        [token for row in rows[i : i + size] for token in row] for i in range(0, len(rows), size)
    ]
    assert [row.tolist() for row in joined] == expected


def test_id_zero_in_the_text_is_not_lost():
    """Pitfall: T5 removes all zeros when it removes its padding."""
    joined = chunks.concat_tokens(Ragged.from_rows([[5, 0, 6], [0]]), 128)
    assert joined[0].tolist() == [5, 0, 6, 0]


@property_test
@given(rows=ROWS, size=st.integers(1, 9), seed=st.integers(0, 1000))
def test_random_chunk_is_one_of_the_documents_chunks(rows, size, seed):
    drawn = chunks.select_random_chunk(Ragged.from_rows(rows), size, seed=seed)
    full = [row for row in rows if row]
    assert len(drawn) == len(full)
    for chunk, row in zip(drawn, full, strict=True):
        assert chunk.tolist() in [row[i : i + size] for i in range(0, len(row), size)]


def test_every_chunk_is_drawn():
    drawn = chunks.select_random_chunk(Ragged.from_rows([range(10)] * 200), 4, seed=1)
    assert {int(row[0]) for row in drawn} == {0, 4, 8}


def test_empty_rows_take_no_seed():
    rows = [list(range(57)), [], list(range(87)), [], [], list(range(67))]
    lengths = [
        chunks.split_tokens(Ragged.from_rows(kept), 50, min_length=8, seed=3).lengths.tolist()
        for kept in (rows, [row for row in rows if row])
    ]
    assert lengths[0] == lengths[1]


@pytest.mark.parametrize(("seed", "drawn"), [(4140, 56087), (8224, 21468)])
def test_drawn_lengths_are_rounded_as_tensorflow_rounds_them(seed, drawn):
    """TensorFlow's answers; NumPy's float32 exponential gives one more."""
    split = chunks.split_tokens(Ragged.from_rows([range(60_000)]), 65_536, min_length=2, seed=seed)
    assert split.lengths[0] == drawn


def test_user_errors():
    rows = Ragged.from_rows([[1, 2]])
    with pytest.raises(ValueError, match="max_length is 0: give at least 1"):
        chunks.split_tokens(rows, 0)
    with pytest.raises(ValueError, match="min_length=2 and seed=None: give both or neither"):
        chunks.split_tokens(rows, 4, min_length=2)
    with pytest.raises(ValueError, match="batch_size is -1"):
        chunks.concat_tokens(rows, -1)


def test_blocks_match_golden(shared, documents):
    golden = np.load(shared / "golden/ul2/building_blocks.npz")
    for name, ours in (
        (
            "select_random_chunk_max128_seed123",
            chunks.select_random_chunk(documents, 128, seed=123),
        ),
        ("split_tokens_max100", chunks.split_tokens(documents, 100)),
        (
            "split_tokens_min8_max100_seed123",
            chunks.split_tokens(documents, 100, min_length=8, seed=123),
        ),
    ):
        lengths, values = golden[f"{name}__lengths"], golden[f"{name}__values"]
        np.testing.assert_array_equal(ours.lengths[: lengths.size], lengths, err_msg=name)
        np.testing.assert_array_equal(ours.values[: values.size], values, err_msg=name)
    joined = chunks.concat_tokens(documents, 128)
    count = len(golden["reduce_concat_lengths"])
    np.testing.assert_array_equal(joined.lengths[:count], golden["reduce_concat_lengths"])
    hashes = [hashlib.sha1(row.astype("<i4").tobytes()).hexdigest() for row in joined][:count]
    assert hashes == golden["reduce_concat_sha1"].tolist()
