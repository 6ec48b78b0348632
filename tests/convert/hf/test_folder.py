"""Folders: index files that lie, links that lead out, and writing all or nothing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.convert import models
from ul2tune import atomic
from ul2tune.convert.hf import folder as hf_folder
from ul2tune.convert.safetensors_io import Entry

ARRAYS = {"a": np.zeros((2, 2), np.float32), "b": np.ones(3, np.float32)}


def sharded(folder: Path, weight_map: Any = None, **index: Any) -> Path:
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    models.write(folder, {"a": ARRAYS["a"]}, "model-1.safetensors")
    models.write(folder, {"b": ARRAYS["b"]}, "model-2.safetensors")
    weight_map = weight_map or {"a": "model-1.safetensors", "b": "model-2.safetensors"}
    (folder / hf_folder.INDEX).write_text(json.dumps({"weight_map": weight_map, **index}))
    return folder


def test_reads_several_files(tmp_path: Path):
    opened = hf_folder.open_folder(sharded(tmp_path / "m"))
    assert set(opened.names) == {"a", "b"}
    np.testing.assert_array_equal(opened.read("b"), ARRAYS["b"])


@pytest.mark.parametrize(
    "name",
    [
        "../secret.safetensors",
        "/etc/passwd",
        "..",
        "sub/model.safetensors",
        "..\\x.safetensors",
        "model-1.safetensors\x00",
        "model-1.safetensors\n",
        "pytorch_model.bin",
        ".safetensors",
        "",
        7,
        None,
    ],
)
def test_an_index_cannot_name_what_is_not_in_the_folder(tmp_path: Path, name: Any):
    models.write(tmp_path, ARRAYS, "secret.safetensors")
    folder = sharded(tmp_path / "m", {"a": name, "b": "model-2.safetensors"})
    with pytest.raises(ValueError, match="not the name of a safetensors file in this folder"):
        hf_folder.open_folder(folder)


@pytest.mark.parametrize(
    ("weight_map", "reason"),
    [
        ({"a": "model-1.safetensors", "b": "model-1.safetensors"}, "'b' in model-1"),
        ({"a": "model-1.safetensors", "b": "model-3.safetensors"}, "is not there"),
        ({"c": "model-1.safetensors", "b": "model-2.safetensors"}, "does not place tensor 'a'"),
        ([], "has no weight_map"),
        ("x", "has no weight_map"),
    ],
)
def test_an_index_must_tell_the_truth(tmp_path: Path, weight_map: Any, reason: str):
    folder = sharded(tmp_path / "m", weight_map if weight_map else [1])
    with pytest.raises(ValueError, match=reason if weight_map else "has no weight_map"):
        hf_folder.open_folder(folder)


def test_an_index_with_a_tensor_twice_is_refused(tmp_path: Path):
    folder = sharded(tmp_path / "m")
    text = '{"weight_map": {"a": "model-1.safetensors", "a": "model-2.safetensors"}}'
    (folder / hf_folder.INDEX).write_text(text)
    with pytest.raises(ValueError, match="'a' occurs twice"):
        hf_folder.open_folder(folder)


@pytest.mark.parametrize("name", ["config.json", "model-1.safetensors", hf_folder.INDEX])
def test_links_out_of_the_folder_are_not_followed(tmp_path: Path, name: str):
    folder = sharded(tmp_path / "m")
    (folder / name).rename(tmp_path / "outside")
    (folder / name).symlink_to("../outside")
    with pytest.raises(ValueError, match="leads out of the folder"):
        hf_folder.open_folder(folder)


def test_links_inside_the_hubs_cache_are_followed(tmp_path: Path):
    cache = tmp_path / "models--owner--name"
    snapshot, blobs = cache / "snapshots" / "abc", cache / "blobs"
    blobs.mkdir(parents=True)
    (cache / "snapshots").mkdir()
    sharded(snapshot)
    for number, path in enumerate(sorted(snapshot.iterdir())):
        path.rename(blobs / str(number))
        path.symlink_to(f"../../blobs/{number}")
    assert set(hf_folder.open_folder(snapshot).names) == {"a", "b"}


def test_a_tokenizer_file_that_links_out_is_not_carried_along(tmp_path: Path):
    folder = sharded(tmp_path / "m")
    (tmp_path / "secret").write_text("secret")
    (folder / "tokenizer.json").symlink_to("../secret")
    (tmp_path / "out").mkdir()
    with pytest.raises(ValueError, match="leads out of the folder"):
        hf_folder.copy_carried(folder, tmp_path / "out")


def test_pickles_are_refused_with_the_reason(tmp_path: Path):
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ValueError, match="holds neither"):
        hf_folder.open_folder(tmp_path)
    (tmp_path / "pytorch_model.bin").write_bytes(b"\x80\x02.")
    with pytest.raises(ValueError, match="is a pickle: loading it can run any code"):
        hf_folder.open_folder(tmp_path)


@pytest.mark.parametrize("text", ["", "[]", "{", '{"a": 1, "a": 2}', '{"a": Infinity}'])
def test_a_bad_config_is_refused(tmp_path: Path, text: str):
    folder = sharded(tmp_path / "m")
    (folder / "config.json").write_text(text)
    with pytest.raises(ValueError, match=r"config\.json is not valid"):
        hf_folder.open_folder(folder)


def test_written_weights_are_read_back_from_one_or_several_files(tmp_path: Path):
    entries = [Entry(name=name, dtype="F32", shape=x.shape) for name, x in ARRAYS.items()]
    for limit, files in ((100, 1), (16, 2)):
        with atomic.new_folder(tmp_path / str(limit)) as folder:
            (folder / "config.json").write_text("{}")
            hf_folder.write_weights(folder, entries, lambda entry: ARRAYS[entry.name], limit)
        opened = hf_folder.open_folder(tmp_path / str(limit))
        assert len({file.path for file in opened.files.values()}) == files
        for name, x in ARRAYS.items():
            np.testing.assert_array_equal(opened.read(name), x)
