"""Random access to shards, and every kind of damage as a clear error."""

import numpy as np
import pytest
from array_record.python.array_record_module import ArrayRecordWriter

from tests.feed import prepared
from ul2tune.data import manifest
from ul2tune.feed.store import Readers, Store


@pytest.fixture
def folder(tmp_path):
    tasks = [prepared.Task(name="texts", examples=prepared.documents(20), num_shards=3)]
    return prepared.write(tmp_path, "texts", tasks)


def opened(folder, readers=None, **options):
    task = manifest.read_task(folder, "texts", "train")
    return Store(folder, task, readers or Readers(), **options)


def shard(folder, number=1):
    return folder / "texts" / "train" / f"data-{number:05d}-of-00003.arrayrecord"


def test_reads_any_example_in_any_order(folder):
    want = prepared.documents(20)
    store = opened(folder, verify_checksums=True)
    assert len(store) == 20
    order = [19, 0, 7, 7, 13, 1]
    for index, example in zip(order, store.read(order), strict=True):
        np.testing.assert_array_equal(example.arrays["targets"], want[index]["targets"])


@pytest.mark.parametrize(("limit", "most"), [(1, 1), (2, 2), (None, 3)])
def test_few_shards_stay_open(folder, limit, most):
    want, readers = prepared.documents(20), Readers(limit)
    store = opened(folder, readers)
    for index in [0, 8, 19, 1, 9, 18, 0]:
        (example,) = store.read([index])
        np.testing.assert_array_equal(example.arrays["targets"], want[index]["targets"])
        assert len(readers._open) <= most
    assert len(readers._open) == most
    readers.close()
    assert len(readers._open) == 0


def test_a_shard_that_cannot_be_opened_is_not_called_damaged(folder):
    store = opened(folder)
    shard(folder).rename(folder / "elsewhere")
    with pytest.raises(ValueError, match=r"data-00001.* cannot be opened: No such file") as error:
        store.read([7])
    assert "Delete" not in str(error.value)


def test_a_missing_shard_is_named(folder):
    shard(folder).unlink()
    with pytest.raises(ValueError, match=r"data-00001-of-00003.arrayrecord is missing"):
        opened(folder)


def test_a_torn_shard_is_named(folder):
    data = shard(folder).read_bytes()
    shard(folder).write_bytes(data[:-100])
    with pytest.raises(
        ValueError, match=rf"has {len(data) - 100} bytes, the manifest says {len(data)}"
    ):
        opened(folder)


def test_checksums_find_one_flipped_bit(folder):
    data = bytearray(shard(folder).read_bytes())
    data[len(data) // 3] ^= 4
    shard(folder).write_bytes(bytes(data))
    opened(folder)
    with pytest.raises(ValueError, match=r"data-00001.* has SHA-256 .*prepare` again"):
        opened(folder, verify_checksums=True)


def test_reading_a_damaged_shard_names_it(folder):
    size = shard(folder).stat().st_size
    shard(folder).write_bytes(b"\7" * size)
    store = opened(folder)
    assert len(store.read([0])) == 1
    with pytest.raises(ValueError, match=r"data-00001-of-00003.arrayrecord is damaged"):
        store.read([0, 7])


def test_a_shard_of_another_length_is_named(folder):
    path = shard(folder)
    writer = ArrayRecordWriter(str(path), "group_size:1")
    writer.write(b"something else")
    writer.close()
    # The manifest's size is made to agree: only the count is wrong.
    text = (folder / "texts" / "train" / "manifest.json").read_text()
    old = next(
        s for s in manifest.read_task(folder, "texts", "train").shards if s.file == path.name
    )
    text = text.replace(f'"num_bytes": {old.num_bytes}', f'"num_bytes": {path.stat().st_size}')
    (folder / "texts" / "train" / "manifest.json").write_text(text)
    with pytest.raises(ValueError, match="holds 1 examples, the manifest says 7"):
        opened(folder).read([7])
