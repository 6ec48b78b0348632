"""Prepared examples as bytes."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ul2tune.data import codec
from ul2tune.data.codec import Example

_ids = st.lists(st.integers(-(2**31), 2**31 - 1) | st.integers(0, 2**16 - 1), max_size=50)
_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(), lambda x: st.lists(x, max_size=3)
)


@settings(deadline=None, max_examples=200, derandomize=True)
@given(
    arrays=st.dictionaries(st.text(max_size=8), _ids, max_size=3),
    fields=st.dictionaries(st.text(max_size=8), _json, max_size=3),
)
def test_round_trip(arrays, fields):
    example = Example(
        arrays={name: np.array(ids, np.int64) for name, ids in arrays.items()}, fields=fields
    )
    back = codec.decode(codec.encode(example))
    assert {name: array.tolist() for name, array in back.arrays.items()} == arrays
    assert all(array.dtype == np.int32 for array in back.arrays.values())
    assert back.fields == fields


def test_equal_examples_have_equal_bytes_whatever_the_order():
    one, two = np.array([1, 2]), np.array([3])
    first = Example(arrays={"inputs": one, "targets": two}, fields={"a": 1, "b": 2})
    second = Example(arrays={"targets": two, "inputs": one}, fields={"b": 2, "a": 1})
    assert codec.encode(first) == codec.encode(second)


def test_small_ids_take_two_bytes():
    small = codec.encode(Example(arrays={"x": np.full(1000, 65535)}))
    large = codec.encode(Example(arrays={"x": np.full(1000, 65536)}))
    assert len(large) - len(small) == 2000


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda data: b"XXXX" + data[4:], "Not a prepared example"),
        (lambda data: data[:3], "Not a prepared example"),
        (lambda data: data + b"\0", "its header describes"),
        (lambda data: data[:-1], "buffer is smaller|its header describes"),
    ],
)
def test_damage_is_an_error(damage, message):
    data = codec.encode(Example(arrays={"x": np.arange(5)}))
    with pytest.raises(ValueError, match=message):
        codec.decode(damage(data))
