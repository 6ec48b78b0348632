"""T5X's legacy format: what is legal is read, what is damaged or hostile is refused."""

from __future__ import annotations

import gzip
import json
import shutil
from pathlib import Path

import flax.serialization
import ml_dtypes
import msgpack
import numpy as np
import pytest
import tensorstore
from hypothesis import given, settings
from hypothesis import strategies as st

from ul2tune.convert.t5x import folders, legacy, msgpack_tree, zarr2
from ul2tune.convert.t5x.legacy import Limits

ARRAYS = {
    "target/a/kernel": np.arange(24, dtype=np.float32).reshape(4, 6),
    "target/a/scale": np.arange(3).astype(ml_dtypes.bfloat16),
    "state/param_states/a/kernel/v": np.zeros((4, 6), np.float32),
    "state/param_states/a/kernel/v_row": np.ones((4,), np.float32),
}
KERNEL = "target.a.kernel"


@pytest.fixture
def checkpoint(tmp_path) -> Path:
    return Path(legacy.write(str(tmp_path), 12, ARRAYS.items()))


def read_all(path) -> dict[str, np.ndarray]:
    opened = legacy.open_checkpoint(str(path))
    return {name: opened.read(name) for name in opened.names}


def content(path: Path):
    """As Flax reads it."""
    return flax.serialization.msgpack_restore((path / "checkpoint").read_bytes())


def rewrite(path: Path, tree) -> None:
    (path / "checkpoint").write_bytes(flax.serialization.msgpack_serialize(tree))


def header(path: Path, **changes) -> None:
    file = path / KERNEL / ".zarray"
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


def test_round_trip(checkpoint):
    assert checkpoint.name == "checkpoint_12"
    assert [p.name for p in checkpoint.parent.iterdir()] == ["checkpoint_12"]
    read = read_all(checkpoint)
    assert read.pop("state/step") == 12
    assert read.keys() == ARRAYS.keys()
    for name, array in read.items():
        assert array.dtype == ARRAYS[name].dtype
        np.testing.assert_array_equal(array, ARRAYS[name])


def test_flax_and_tensorstore_read_what_we_write(checkpoint):
    tree = content(checkpoint)
    assert tree["version"] == 3
    assert tree["optimizer"]["state"]["step"] == 12
    spec = tree["optimizer"]["target"]["a"]["scale"]
    assert spec["dtype"] == "bfloat16"
    spec["kvstore"]["path"] = str(checkpoint / spec["kvstore"]["path"])
    np.testing.assert_array_equal(
        tensorstore.open(spec).result().read().result(), ARRAYS["target/a/scale"]
    )


def test_we_read_what_tensorstore_writes_in_uneven_chunks(tmp_path):
    wanted = np.random.default_rng(0).random((5, 7, 3)).astype(np.float32)
    wanted[2:4, :, :] = 0  # a chunk that TensorStore need not write
    store = tensorstore.open(
        {
            "driver": "zarr",
            "kvstore": {"driver": "file", "path": str(tmp_path / "x")},
            "metadata": {"shape": [5, 7, 3], "chunks": [2, 4, 3], "dtype": "<f4",
                         "compressor": {"id": "gzip", "level": 1}},
            "create": True,
        }
    ).result()  # fmt: skip
    store.write(wanted).result()
    np.testing.assert_array_equal(zarr2.read(folders.open_folder(str(tmp_path)), "x"), wanted)


def test_leaves_may_be_in_either_place_and_split(tmp_path):
    limits = Limits(array_bytes=16, msgpack_bytes=10)
    big = {name: np.asarray(array) for name, array in ARRAYS.items()}
    for number, outside in enumerate([lambda *_: False, lambda *_: True]):
        path = legacy.write(str(tmp_path), number, big.items(), outside, limits)
        for name, array in read_all(path).items():
            if name != "state/step":
                np.testing.assert_array_equal(array, big[name])
    assert len(list((Path(path) / KERNEL).glob("*.*"))) == 6 + 1  # 24 floats in chunks of 4
    inside = content(tmp_path / "checkpoint_0")["optimizer"]["target"]["a"]["kernel"]
    np.testing.assert_array_equal(inside, big["target/a/kernel"])  # Flax puts it together too


@given(st.lists(st.integers(1, 40), max_size=4), st.integers(1, 50))
@settings(deadline=None, derandomize=True, max_examples=60)
def test_chunks_divide_the_array_and_are_small_enough(shape, most):
    chunks = zarr2.chunk_shape(shape, most)
    assert all(size % chunk == 0 for size, chunk in zip(shape, chunks))
    assert np.prod(chunks) <= most


def test_old_specs_and_other_stores_are_read(checkpoint):
    tree = content(checkpoint)
    spec = tree["optimizer"]["target"]["a"]["kernel"]
    spec["path"] = spec["kvstore"].pop("path").rstrip("/")  # before TensorStore 0.1.14
    spec["kvstore"] = {"driver": "gcs", "bucket": "t5x-dummy-bucket"}
    tree["optimizer"]["target"]["a"]["scale"]["kvstore"]["driver"] = "gfile"
    rewrite(checkpoint, tree)
    np.testing.assert_array_equal(
        read_all(checkpoint)["target/a/kernel"], ARRAYS["target/a/kernel"]
    )


def test_a_missing_chunk_is_the_fill_value(checkpoint):
    (checkpoint / KERNEL / "0.0").unlink()
    with pytest.raises(ValueError, match=r"kernel has 0 of 1 chunks: the checkpoint is incomplete"):
        read_all(checkpoint)
    header(checkpoint, fill_value=2.5)
    assert (read_all(checkpoint)["target/a/kernel"] == 2.5).all()
    (checkpoint / "state.param_states.a.kernel.v" / "0.0").unlink()  # moments may be zeros
    assert (read_all(checkpoint)["state/param_states/a/kernel/v"] == 0).all()


@pytest.mark.parametrize("name", [f"{KERNEL}/0.0", KERNEL, "checkpoint"])
def test_links_out_of_the_checkpoint_are_not_followed(checkpoint, tmp_path, name):
    (checkpoint / name).rename(tmp_path / "elsewhere")
    (checkpoint / name).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ValueError, match="is a link that leads out of the folder"):
        read_all(checkpoint)


def test_the_newest_checkpoint_of_a_folder_is_found(checkpoint):
    legacy.write(str(checkpoint.parent), 9, ARRAYS.items())
    (checkpoint.parent / "checkpoint_99.tmp-1").mkdir()
    assert legacy.find(str(checkpoint.parent)) == str(checkpoint)
    assert legacy.find(str(checkpoint / "checkpoint")) == str(checkpoint)
    with pytest.raises(ValueError, match="no T5X checkpoint"):
        legacy.find(str(checkpoint.parent / "nothing"))


def test_a_bucket_is_read_and_written(checkpoint):
    import fsspec

    files = fsspec.filesystem("memory")
    shutil.rmtree(checkpoint)
    path = legacy.write("memory://bucket/run", 3, ARRAYS.items())
    assert path == "memory://bucket/run/checkpoint_3"
    read = read_all("memory://bucket/run")
    np.testing.assert_array_equal(read["target/a/kernel"], ARRAYS["target/a/kernel"])
    assert not any(".tmp-" in name for name in files.find("/bucket"))
    files.rm("/bucket", recursive=True)


@pytest.mark.parametrize(
    ("version", "message"),
    [
        (None, "plain Flax"),
        (1, "version 1"),
        (2, "bfloat16 as uint16"),
        (4, "newer"),
        ("x", "newer"),
    ],
)
def test_other_versions_are_refused(checkpoint, version, message):
    tree = content(checkpoint)
    del tree["version"]
    rewrite(checkpoint, tree if version is None else {**tree, "version": version})
    with pytest.raises(ValueError, match=message):
        legacy.open_checkpoint(str(checkpoint))


@pytest.mark.parametrize(
    "path", ["../../etc", "/etc/passwd", "a/../../b", "", "..", "a\\b", "a\0b"]
)
def test_paths_out_of_the_checkpoint_are_refused(checkpoint, path):
    tree = content(checkpoint)
    tree["optimizer"]["target"]["a"]["kernel"]["kvstore"]["path"] = path
    rewrite(checkpoint, tree)
    with pytest.raises(ValueError, match="not inside the checkpoint"):
        legacy.open_checkpoint(str(checkpoint))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"shape": [2**40, 2**40]}, "absurd"),
        ({"shape": [4, -6]}, "impossible sizes"),
        ({"shape": [4.0, 6]}, "impossible sizes"),
        ({"chunks": [0, 6]}, "impossible sizes"),
        ({"chunks": [2**30, 2**30]}, "absurd"),
        ({"chunks": [24]}, "rank"),
        ({"shape": [4, 7], "chunks": [4, 7]}, r"\.zarray says \(4, 7\)"),
        ({"dtype": "|O"}, "dtype"),
        ({"dtype": [["a", "<f4"]]}, "damaged"),
        ({"dtype": "(2,"}, "damaged"),
        ({"compressor": {"id": ["gzip"]}}, "compressed with"),
        ({"fill_value": 10**400}, "fill value '1000"),
        ({"compressor": {"id": "blosc"}}, "blosc"),
        ({"filters": [{"id": "delta"}]}, "filters"),
        ({"order": "F"}, "order"),
        ({"zarr_format": 3}, "format"),
        ({"fill_value": "abc"}, "fill value"),
    ],
)
def test_absurd_headers_are_refused(checkpoint, changes, message):
    header(checkpoint, **changes)
    with pytest.raises(ValueError, match=message):
        legacy.open_checkpoint(str(checkpoint))


@pytest.mark.parametrize("damage", ["cut", "flipped", "short", "long", "bomb"])
def test_damaged_chunks_are_refused(checkpoint, damage):
    chunk = checkpoint / KERNEL / "0.0"
    data = chunk.read_bytes()
    plain = gzip.decompress(data)
    replaced = {
        "cut": data[: len(data) // 2],
        "flipped": b"\x00" + data[1:],
        "short": gzip.compress(plain[:-4]),
        "long": gzip.compress(plain + b"1234"),
        "bomb": gzip.compress(bytes(2**24)),
    }
    chunk.write_bytes(replaced[damage])
    with pytest.raises(ValueError, match=r"0\.0.*(damaged|truncated)"):
        read_all(checkpoint)


def test_truncated_and_strange_msgpack_is_refused(checkpoint):
    file = checkpoint / "checkpoint"
    data = file.read_bytes()
    deep = b"\x81\xa1a" * 5000 + b"\xc0"
    lying = msgpack.packb({"x": msgpack.ExtType(1, msgpack.packb(([2**40], "float32", b"1234")))})
    for bad in (data[:-10], data[:1], b"", b"\xff" * 50, deep, lying, msgpack.packb([1, 2])):
        file.write_bytes(bad)
        with pytest.raises(ValueError, match=r"checkpoint (cannot be read|has version)"):
            legacy.open_checkpoint(str(checkpoint))
    file.write_bytes(b"model_checkpoint_path: 'x'")
    with pytest.raises(ValueError, match="TensorFlow"):
        legacy.open_checkpoint(str(checkpoint))


def test_missing_files_and_unknown_drivers_are_refused(checkpoint):
    tree = content(checkpoint)
    tree["optimizer"]["target"]["a"]["kernel"]["driver"] = "n5"
    rewrite(checkpoint, tree)
    with pytest.raises(ValueError, match="n5"):
        legacy.open_checkpoint(str(checkpoint))
    tree["optimizer"]["target"]["a"]["kernel"]["driver"] = "zarr"
    rewrite(checkpoint, tree)
    (checkpoint / KERNEL / ".zarray").unlink()
    with pytest.raises(ValueError, match="incomplete"):
        legacy.open_checkpoint(str(checkpoint))


def test_a_failed_write_leaves_nothing(tmp_path):
    def leaves():
        yield "target/a/kernel", ARRAYS["target/a/kernel"]
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        legacy.write(str(tmp_path), 1, leaves())
    assert not list(tmp_path.iterdir())
    with pytest.raises(ValueError, match="given twice"):
        legacy.write(str(tmp_path), 1, [*ARRAYS.items(), *ARRAYS.items()])
    assert not list(tmp_path.iterdir())


def test_another_write_of_the_same_second_takes_nothing_away(tmp_path):
    def fails():
        yield "target/x", np.zeros(3)
        raise RuntimeError

    def leaves():
        yield "target/x", np.ones(3)
        with pytest.raises(RuntimeError):
            legacy.write(str(tmp_path), 4, fails())
        yield "target/y", np.ones(3)

    read = read_all(legacy.write(str(tmp_path), 4, leaves()))
    assert (read["target/x"] == 1).all()


def test_an_existing_checkpoint_is_not_touched(checkpoint):
    before = read_all(checkpoint)
    with pytest.raises(ValueError, match="exists already"):
        legacy.write(str(checkpoint.parent), 12, [])
    assert read_all(checkpoint).keys() == before.keys()


def test_msgpack_is_flaxs():
    tree = {"a": {"b": np.arange(6).reshape(2, 3), "c": np.float32(2.5)}, "d": 3}
    assert msgpack_tree.dumps(tree) == flax.serialization.msgpack_serialize(tree)
    assert msgpack_tree.loads(flax.serialization.msgpack_serialize(tree), "x")["a"]["c"] == 2.5
