"""A Hugging Face model folder: config.json, safetensors files, tokenizer files. Trusts nothing.

config.json                       the model
model.safetensors                 all tensors, or
model.safetensors.index.json      {"weight_map": {tensor: file}} and the files it names
tokenizer.json, spiece.model, …   carried along as they are
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ul2tune.convert import safetensors_io
from ul2tune.convert.safetensors_io import Entry, SafetensorsFile, TensorInfo

CONFIG, WEIGHTS, INDEX = "config.json", "model.safetensors", "model.safetensors.index.json"
# What else of a folder belongs to the model. Nothing here is executed or unpickled.
CARRIED = (
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "spiece.model",
    "tokenizer.model",
    "vocab.json",
    "merges.txt",
    "chat_template.jinja",
)
PICKLES = ("pytorch_model.bin", "pytorch_model.bin.index.json")
MAX_JSON_BYTES = 100_000_000
MAX_CARRIED_BYTES = 1_000_000_000
_SHARD_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*\.safetensors")


def is_weights_file(name: str) -> bool:
    """Whether `name` is a plain file name that ends in .safetensors."""
    return _SHARD_NAME.fullmatch(name) is not None


@dataclass(frozen=True, kw_only=True)
class HFFolder:
    """An opened folder, every header checked. Implements `mapping.Tensors`.

    Attributes:
      path: the folder.
      config: the parsed config.json.
      files: the file that holds each tensor.
    """

    path: Path
    config: Mapping[str, Any]
    files: Mapping[str, SafetensorsFile]

    @property
    def names(self) -> Collection[str]:
        return self.files.keys()

    def info(self, name: str) -> TensorInfo:
        return self.files[name].tensors[name]

    def shape(self, name: str) -> tuple[int, ...]:
        return self.info(name).shape

    def read(self, name: str) -> np.ndarray:
        return self.files[name].read(name)

    def equal(self, name: str, other: str) -> bool:
        a, b = self.info(name), self.info(other)
        if (a.dtype, a.shape) != (b.dtype, b.shape):
            return False
        pieces = (self.files[n].pieces(n, 2**24) for n in (name, other))
        return all(np.array_equal(x, y) for x, y in zip(*pieces))


def copy_carried(source: Path, target: Path) -> None:
    """Copies config.json and the tokenizer and generation files that are there."""
    for name in (CONFIG, *CARRIED):
        if os.path.lexists(source / name):
            (target / name).write_bytes(read_small(source, name, MAX_CARRIED_BYTES))


def open_folder(path: str | Path) -> HFFolder:
    """Opens and checks a folder; reads headers, no tensors.

    Raises:
      ValueError: saying what is missing or wrong, and where.
    """
    path = Path(path)
    if not path.is_dir():
        raise ValueError(f"{path} is not a folder.")
    config = read_config(path)
    if os.path.lexists(path / WEIGHTS):
        files = [safetensors_io.open_file(inside(path, WEIGHTS))]
    elif os.path.lexists(path / INDEX):
        files = _open_index(path)
    else:
        raise ValueError(_no_weights(path))
    return HFFolder(
        path=path, config=config, files={name: file for file in files for name in file.tensors}
    )


def _no_weights(path: Path) -> str:
    pickles = [name for name in PICKLES if os.path.lexists(path / name)]
    if pickles:
        return (
            f"{path} holds {pickles[0]} and no safetensors. It is a pickle: loading it can run "
            f"any code, so it is refused. Convert it where you trust it, with Transformers: "
            f"AutoModel….from_pretrained(…).save_pretrained(…)."
        )
    return f"{path} holds neither {WEIGHTS} nor {INDEX}."


def read_config(path: Path) -> dict[str, Any]:
    """The parsed config.json of a folder."""
    return safetensors_io.parse_json(read_small(path, CONFIG, MAX_JSON_BYTES), str(path / CONFIG))


def inside(folder: Path, name: str) -> Path:
    """The path of a file of a folder; links may not lead out of it.

    In the cache of huggingface_hub, ``models--…/snapshots/REVISION`` consists of links into
    ``models--…/blobs``; those are followed.

    Raises:
      ValueError: if the file is not there or elsewhere.
    """
    path = folder / name
    try:
        target, root = path.resolve(strict=True), folder.resolve(strict=True)
    except (OSError, RuntimeError) as error:
        raise ValueError(f"{path} is not there (or is a circular link).") from error
    roots = [root]
    if root.parent.name == "snapshots" and root.parent.parent.name.startswith("models--"):
        roots.append(root.parent.parent / "blobs")
    if not any(target.is_relative_to(allowed) for allowed in roots):
        raise ValueError(f"{path} is a link that leads out of the folder; it is not followed.")
    return target


def read_small(folder: Path, name: str, limit: int) -> bytes:
    """The bytes of a file of a folder that is known to be small."""
    path = inside(folder, name)
    with safetensors_io.open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        if size > limit:
            raise ValueError(f"{path} has {size} bytes; at most {limit} are expected.")
        return file.readall()


def _open_index(path: Path) -> list[SafetensorsFile]:
    where = path / INDEX
    weight_map = safetensors_io.parse_json(read_small(path, INDEX, MAX_JSON_BYTES), str(where)).get(
        "weight_map"
    )
    if not isinstance(weight_map, dict) or not weight_map:
        raise ValueError(f"{where} has no weight_map.")
    tensors_of: dict[str, set[str]] = {}
    for tensor, name in weight_map.items():
        if not isinstance(name, str) or not is_weights_file(name):
            raise ValueError(
                f"{where} puts tensor {tensor[:100]!r} into {str(name)[:100]!r}, which is not the "
                f"name of a safetensors file in this folder."
            )
        tensors_of.setdefault(name, set()).add(tensor)
    files = []
    for name, tensors in sorted(tensors_of.items()):
        file = safetensors_io.open_file(inside(path, name))
        if wrong := sorted(tensors ^ file.tensors.keys()):
            says, has = ("not", "is") if wrong[0] in file.tensors else ("", "is not")
            raise ValueError(
                f"{where} does {says + ' ' if says else ''}place tensor {wrong[0][:100]!r} in "
                f"{name}, but it {has} there ({len(wrong)} such tensors)."
            )
        files.append(file)
    return files


def write_weights(
    folder: Path,
    entries: Sequence[Entry],
    produce: Callable[[Entry], np.ndarray],
    max_shard_bytes: int,
) -> None:
    """Writes all tensors as Transformers does: one file, or several and an index."""
    metadata = {"format": "pt"}  # Transformers refuses files that do not say for whom they are
    shards = safetensors_io.shard(entries, max_shard_bytes)
    if len(shards) == 1:
        safetensors_io.write_file(folder / WEIGHTS, shards[0], produce, metadata)
        return
    weight_map: dict[str, str] = {}
    for n, shard in enumerate(shards, start=1):
        name = f"model-{n:05d}-of-{len(shards):05d}.safetensors"
        safetensors_io.write_file(folder / name, shard, produce, metadata)
        weight_map.update({entry.name: name for entry in shard})
    total = sum(entry.num_bytes for entry in entries)
    write_json(folder / INDEX, {"metadata": {"total_size": total}, "weight_map": weight_map})


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2, sort_keys=True) + "\n", encoding="utf-8")
