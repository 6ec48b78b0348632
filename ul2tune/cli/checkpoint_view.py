"""A model's weights, array by array, whoever wrote them: our checkpoints, Transformers', T5X's."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ul2tune.checkpoints import initialize, layout
from ul2tune.checkpoints.description import describe
from ul2tune.checkpoints.stored import StoredArrays
from ul2tune.convert.hf import folder as hf_folder
from ul2tune.convert.hf import models as hf
from ul2tune.convert.t5x import legacy
from ul2tune.convert.t5x import models as t5x

OURS, TRANSFORMERS, T5X = "ul2tune", "Transformers", "T5X"
_NO_WEIGHTS = (initialize.OPTIMIZER, "step")


@dataclass(frozen=True, kw_only=True)
class View:
    """One checkpoint.

    Attributes:
      path: what was opened.
      kind: whose format it is.
      shapes, dtypes: of the arrays by name; dtypes are NumPy's names.
      read: an array by name.
      facts: what else is known, as JSON.
      model: the model's configuration, as JSON; {} if unknown.
      partitions: how arrays lay over a mesh when they were saved.
    """

    path: str
    kind: str
    shapes: Mapping[str, tuple[int, ...]]
    dtypes: Mapping[str, str]
    read: Callable[[str], np.ndarray]
    facts: Mapping[str, Any] = field(default_factory=dict)
    model: Mapping[str, Any] = field(default_factory=dict)
    partitions: Mapping[str, str] = field(default_factory=dict)


def open_view(path: str, *, everything: bool = False) -> View:
    """Opens a checkpoint under the names it has there.

    Args:
      path: a MODEL_DIR or step folder of ours, a folder of Transformers', or a checkpoint of T5X's.
      everything: the optimiser's state too.

    Raises:
      ValueError: if it is none of these, or damaged.
    """
    kind = _kind(path)
    if kind == OURS:
        return _ours(initialize.resolve(path), everything=everything)
    if kind == TRANSFORMERS:
        folder = hf_folder.open_folder(path)
        return View(
            path=path,
            kind=kind,
            shapes={name: folder.shape(name) for name in sorted(folder.names)},
            dtypes={name: folder.info(name).dtype for name in folder.names},
            read=folder.read,
            facts={"model_type": folder.config.get("model_type")},
            model=folder.config,
        )
    where, tensors = t5x.open_tensors(path)
    names = sorted(n for n in tensors.names if everything or n.startswith("target/"))
    return View(
        path=where,
        kind=kind,
        shapes={name: tuple(tensors.shape(name)) for name in names},
        dtypes=dict.fromkeys(names, ""),  # T5X notes none; known once an array is read
        read=tensors.read,
        facts={"step": int(tensors.read(t5x.STEP))},
    )


def open_pair(first: str, second: str, *, everything: bool = False) -> tuple[View, View]:
    """Two checkpoints under the same names: of different formats, both under ours."""
    if _kind(first) == _kind(second):
        return open_view(first, everything=everything), open_view(second, everything=everything)
    return _as_ours(first), _as_ours(second)


def _kind(path: str) -> str:
    folder = Path(path)
    ours = (folder, *folder.glob("[0-9]*"), *folder.glob(f"{layout.SUBDIRECTORY}/[0-9]*"))
    if any((step / layout.META).is_dir() for step in ours):
        return OURS
    if (folder / hf_folder.CONFIG).exists():
        return TRANSFORMERS
    if "://" not in path:
        _check_t5x(path)
    return T5X


def _check_t5x(path: str) -> None:
    """Raises ValueError where a path on this machine holds no checkpoint of any kind."""
    if not Path(path).exists():
        raise ValueError(f"{path} does not exist.")
    try:
        legacy.find(path)
    except ValueError as error:
        raise ValueError(
            f"{path!r} holds no checkpoint of ours (a MODEL_DIR, its {layout.SUBDIRECTORY!r} "
            f"folder or the folder of one step) and none of Transformers' (a folder with "
            f"{hf_folder.CONFIG}). {error}"
        ) from error


def _ours(step_dir: Path, *, everything: bool) -> View:
    arrays = StoredArrays(step_dir)
    wanted = [p for p in arrays.shapes if everything or p.split("/")[0] not in _NO_WEIGHTS]
    config = arrays.meta.get("config", {})
    facts = {"step": arrays.meta["step"], "config": digest(config)}
    if "merged" in arrays.meta:
        facts["merged from"] = [
            f"{term['coefficient']:+.6g} x {term['checkpoint']}" for term in arrays.meta["merged"]
        ]
    if not everything:
        facts["further arrays"] = len(arrays.shapes) - len(wanted)
    return View(
        path=str(step_dir),
        kind=OURS,
        shapes={path: arrays.shapes[path] for path in wanted},
        dtypes=arrays.dtypes,
        read=arrays.read,
        facts=facts,
        model=config.get("model", {}),
        partitions=arrays.partitions(),
    )


def _as_ours(path: str) -> View:
    """Only the parameters, named and shaped as ours."""
    kind, prefix = _kind(path), f"{initialize.PARAMS}/"
    if kind == OURS:
        view = _ours(initialize.resolve(path), everything=False)
        shapes = {name: shape for name, shape in view.shapes.items() if name.startswith(prefix)}
        return dataclasses.replace(view, shapes=shapes)
    source = hf.open_model(path) if kind == TRANSFORMERS else t5x.open_model(path)
    shapes = {f"{prefix}{path}": shape for path, shape, _ in source.arrays()}

    def read(name: str) -> np.ndarray:
        return next(
            np.stack(list(layers)).reshape(shape)
            for path, shape, layers in source.arrays()
            if f"{prefix}{path}" == name
        )

    return View(
        path=path,
        kind=kind,
        shapes=shapes,
        dtypes=dict.fromkeys(shapes, "float32"),
        read=read,
        model=describe(source.config),
    )


def digest(config: Mapping[str, Any]) -> str:
    """Twelve hexadecimal digits that tell configurations apart."""
    text = json.dumps(config, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]
