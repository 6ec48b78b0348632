"""Writes our models as folders for Transformers, one tensor at a time: what all families share.

write_model(folder, plan_export(Export(config=…, like=…, dtypes=…)), read, report)
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ul2tune import tree
from ul2tune.convert.hf import folder as hf_folder
from ul2tune.convert.hf import models
from ul2tune.convert.mapping import Leaf
from ul2tune.convert.safetensors_io import DTYPES, Entry
from ul2tune.models import base

MAX_SHARD_BYTES = 5 * 10**9
# Transformers' (PyTorch's) names.
TORCH = {"F32": "float32", "BF16": "bfloat16", "F16": "float16"}


@dataclass(frozen=True, kw_only=True)
class Export:
    """What a model becomes.

    Attributes:
      config: our configuration.
      like: the config.json it came with, {} if none.
      dtypes: stored dtype by tensor name; others get `dtype`.
      dtype: a key of `safetensors_io.DTYPES` among `models.STORED`.
      max_shard_bytes: size of the files.
    """

    config: Any
    like: Mapping[str, Any]
    dtypes: Mapping[str, str]
    dtype: str = "F32"
    max_shard_bytes: int = MAX_SHARD_BYTES


@dataclass(frozen=True, kw_only=True)
class Plan:
    """An export, looked through: what will be written and from what.

    Attributes:
      export: what was asked for.
      hf: config.json.
      entries: the tensors, in the order of the table.
      places: leaf and layer of each.
    """

    export: Export
    hf: Mapping[str, Any]
    entries: Sequence[Entry]
    places: Mapping[str, tuple[Leaf, int]]

    @property
    def num_bytes(self) -> int:
        return sum(entry.num_bytes for entry in self.entries)


def plan_export(export: Export) -> Plan:
    """Lays an export out.

    Raises:
      ValueError: for what Transformers cannot represent.
    """
    family = models.family_of_config(export.config)
    hf = family.config_to_hf(export.config, export.like)
    shapes = tree.flatten(base.abstract_params(export.config))
    places: dict[str, tuple[Leaf, int]] = {}
    entries: list[Entry] = []
    for leaf in family.leaves(export.config, hf):
        shape = models.their_shape(leaf, shapes[leaf.path].shape)
        for index, name in enumerate(leaf.names):
            places[name] = leaf, index
            dtype = export.dtypes.get(name, export.dtype)
            entries.append(Entry(name=name, dtype=dtype, shape=shape))
    hf.pop("torch_dtype", None)  # Transformers 4's name of "dtype", which it still reads
    hf["dtype"] = TORCH[Counter(entry.dtype for entry in entries).most_common(1)[0][0]]
    return Plan(export=export, hf=hf, entries=entries, places=places)


def write_model(
    folder: Path, plan: Plan, read: Callable[[str], Any], report: Callable[[int], object]
) -> None:
    """Writes config.json and the weights into `folder`.

    Args:
      folder: an empty folder.
      plan: of :func:`plan_export`.
      read: our parameter by path: a float32 array, or something that yields the layers of a stack
        one by one (`checkpoints.pieces`); called once per path, in the order of the table.
      report: called with the bytes of every tensor that was written.

    Raises:
      ValueError: if a number is not finite, or not in its dtype.
    """
    layers: Iterator[np.ndarray] = iter(())

    def produce(entry: Entry) -> np.ndarray:
        nonlocal layers
        leaf, index = plan.places[entry.name]
        if index == 0:
            found = read(leaf.path)
            layers = iter(found if leaf.stacked else [np.asarray(found)])
        with np.errstate(over="ignore"):
            value = leaf.to_theirs(next(layers)).astype(DTYPES[entry.dtype], copy=False)
        models.check_finite(value, f"Tensor {entry.name!r} as {TORCH[entry.dtype]}")
        report(entry.num_bytes)
        return value

    hf_folder.write_json(folder / hf_folder.CONFIG, plan.hf)
    hf_folder.write_weights(folder, plan.entries, produce, plan.export.max_shard_bytes)
