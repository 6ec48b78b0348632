"""The format, written by us and by the safetensors package; and what strangers may send instead."""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import numpy as package

from tests.convert import models
from ul2tune.convert import safetensors_io
from ul2tune.convert.safetensors_io import Entry, open_file, write_file

A = np.arange(6, dtype=np.float32).reshape(2, 3)
B = np.array([1.5, -2.0], ml_dtypes.bfloat16)
GOOD = {
    "a": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]},
    "b": {"dtype": "BF16", "shape": [2], "data_offsets": [24, 28]},
}
DATA = A.tobytes() + B.tobytes()


def raw(path: Path, header: Any, data: bytes = DATA) -> Path:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)
    return path


def changed(name: str, **values: Any) -> dict[str, Any]:
    return {**GOOD, name: {**GOOD[name], **values}}


def test_reads_what_the_format_says(tmp_path: Path):
    file = open_file(raw(tmp_path / "x", {"__metadata__": {"format": "pt"}, **GOOD}))
    assert file.metadata == {"format": "pt"}
    assert list(file.tensors) == ["a", "b"]
    np.testing.assert_array_equal(file.read("a"), A)
    np.testing.assert_array_equal(file.read("b"), B)
    assert file.read("b").dtype == ml_dtypes.bfloat16


def test_the_package_reads_ours_and_we_read_the_packages(tmp_path: Path):
    rng = np.random.default_rng(0)
    arrays = {
        name: rng.integers(0, 2, shape).astype(dtype)
        for name, (dtype, shape) in {
            "f64": (np.float64, (2, 3)),
            "f16": (np.float16, (3,)),
            "scalar": (np.float32, ()),
            "empty": (np.float32, (0, 4)),
            "bool": (np.bool_, (5,)),
            "u8": (np.uint8, (1, 1, 3)),
            "i64": (np.int64, (2,)),
        }.items()
    }
    entries = [
        Entry(name=name, dtype=models.dtype_name(x.dtype), shape=x.shape)
        for name, x in arrays.items()
    ]
    write_file(tmp_path / "ours", entries, lambda entry: arrays[entry.name], {"k": "v"})
    package.save_file(arrays, tmp_path / "theirs", {"k": "v"})
    loaded = package.load_file(tmp_path / "ours")
    for file in (open_file(tmp_path / "ours"), open_file(tmp_path / "theirs")):
        assert file.metadata == {"k": "v"}
        assert set(file.tensors) == set(arrays) == set(loaded)
        for name, x in arrays.items():
            for got in (file.read(name), loaded[name]):
                assert (got.dtype, got.shape) == (x.dtype, x.shape)
                np.testing.assert_array_equal(got, x)


@pytest.mark.parametrize(
    ("header", "reason"),
    [
        (changed("a", dtype="F8_E4M3"), "has dtype 'F8_E4M3'"),
        (changed("a", dtype=["F32"]), "has dtype"),
        (changed("a", shape=[2, 4]), "but occupies bytes 0 to 24"),
        (changed("a", shape=[-2, -3]), "not a list of sizes"),
        (changed("a", shape=[2.0, 3.0]), "not a list of sizes"),
        (changed("a", shape=[True, 6]), "not a list of sizes"),
        (changed("a", shape=[1] * 40 + [6]), "dimensions"),
        (changed("a", shape=[2**62, 2**62, 0]), "but occupies"),
        (changed("b", data_offsets=[20, 24]), "overlaps"),
        (changed("b", data_offsets=[26, 30]), "leaves a gap"),
        (changed("b", data_offsets=[24, 28, 30]), "not begin and end"),
        (changed("b", data_offsets=[28, 24]), "but occupies"),
        ({**GOOD, "c": {"dtype": "U8", "shape": [4], "data_offsets": [28, 32]}}, "is cut off"),
        ({"a": GOOD["a"]}, "belong to no tensor"),
        ({"a": {**GOOD["a"], "pickle": "x"}}, "exactly dtype, shape and data_offsets"),
        ({"a": [1, 2]}, "exactly dtype, shape and data_offsets"),
        ({"__metadata__": {"k": 1}, **GOOD}, "must map text to text"),
        ({"__metadata__": [], **GOOD}, "must map text to text"),
        (b"[]", "does not begin with"),
        (b" {}", "does not begin with"),
        (b"", "does not begin with"),
        (b'{"a": \xff}', "is not valid"),
        (b'{"a": 1', "is not valid"),
        (b'{"a": NaN}', "NaN is no JSON"),
        (b'{"a": {}, "a": {}}', "the key 'a' occurs twice"),
        (b'{"a":' * 100_000, "nests too deep"),
        (b'{"a":' + b"9" * 5000 + b"}", "is not valid"),
    ],
)
def test_hostile_headers_are_refused(tmp_path: Path, header: Any, reason: str):
    with pytest.raises(ValueError, match=reason) as caught:
        open_file(raw(tmp_path / "model.safetensors", header))
    assert str(tmp_path) in str(caught.value)
    assert len(str(caught.value)) < 600


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "only 0 bytes"),
        (b"1234567", "only 7 bytes"),
        (struct.pack("<Q", 2**63) + b"{}", "claims a header of 9223372036854775808 bytes"),
        (struct.pack("<Q", 99_999_999) + b"{}", "cut off"),
        (b"\x80\x02}q\x00.PICKLE", "claims a header"),
    ],
)
def test_what_is_no_safetensors_file_is_refused(tmp_path: Path, content: bytes, reason: str):
    path = tmp_path / "x"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=reason):
        open_file(path)


def test_every_truncation_is_refused(tmp_path: Path):
    whole = raw(tmp_path / "x", GOOD).read_bytes()
    for size in range(len(whole)):
        (tmp_path / "cut").write_bytes(whole[:size])
        with pytest.raises(ValueError, match="cut"):
            open_file(tmp_path / "cut")


def test_a_file_that_shrinks_after_it_was_checked_is_refused(tmp_path: Path):
    path = raw(tmp_path / "x", GOOD)
    file = open_file(path)
    os.truncate(path, path.stat().st_size - 2)
    with pytest.raises(ValueError, match="ends inside tensor 'b'"):
        file.read("b")


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda path: os.mkfifo(path), "not a regular file"),
        (lambda path: path.mkdir(), "cannot be opened|not a regular file"),
        (lambda path: path.symlink_to("/dev/zero"), "not a regular file"),
        (lambda path: None, "cannot be opened"),
    ],
)
def test_what_is_no_file_is_refused_at_once(
    tmp_path: Path, make: Callable[[Path], object], reason: str
):
    make(tmp_path / "x")
    with pytest.raises(ValueError, match=reason):
        open_file(tmp_path / "x")


@settings(deadline=None, max_examples=60, derandomize=True)
@given(st.data())
def test_a_damaged_byte_of_the_header_gives_a_clear_error_or_the_same_layout(
    tmp_path_factory, data
):
    path = raw(tmp_path_factory.mktemp("d") / "x", GOOD)
    content = bytearray(path.read_bytes())
    position = data.draw(st.integers(0, len(content) - len(DATA) - 1))
    content[position] = data.draw(st.integers(0, 255))
    path.write_bytes(content)
    try:
        file = open_file(path)
    except ValueError as error:
        message = str(error)
    else:
        # Another name, or another dtype of the same size.
        message = str(path)
        assert sum(info.end - info.begin for info in file.tensors.values()) == len(DATA)
    assert str(path) in message


def test_files_are_cut_at_the_largest_size():
    entries = [Entry(name=str(n), dtype="U8", shape=(size,)) for n, size in enumerate([3, 3, 9, 1])]
    names = [[entry.name for entry in file] for file in safetensors_io.shard(entries, 6)]
    assert names == [["0", "1"], ["2"], ["3"]]
