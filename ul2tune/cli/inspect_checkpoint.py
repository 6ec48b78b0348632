"""`ul2tune inspect CHECKPOINT [CHECKPOINT]`: what one holds, or how two differ; array by array."""

from __future__ import annotations

import argparse
import dataclasses
import functools
import json
import math
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from ul2tune.checkpoints import statistics
from ul2tune.checkpoints.statistics import Difference
from ul2tune.cli import checkpoint_view
from ul2tune.cli.checkpoint_view import View
from ul2tune.training import drift
from ul2tune.training.progress import compact

WIDTH = 100
TOP = 20
# Columns beside the name.
_COLUMNS = "{shape:>18} {dtype:>4} {count:>6} {rms:>8} {largest:>8} {bad:>4} {layout:<16}"
_NAME = WIDTH - len(_COLUMNS.format(**dict.fromkeys(
    ("shape", "dtype", "count", "rms", "largest", "bad", "layout"), ""))) - 1  # fmt: skip
_DIFF_NAME = WIDTH - 24
_DTYPES = {"float32": "f32", "bfloat16": "bf16", "float16": "f16", "int32": "i32"}


def run(options: argparse.Namespace) -> None:
    """Prints a table or JSON.

    Raises:
      ValueError: for more than two checkpoints, or a path that holds none.
    """
    if len(options.checkpoints) > 2:
        raise ValueError(f"One checkpoint, or two to compare; got {len(options.checkpoints)}.")
    jax.config.update("jax_platforms", "cpu")
    if len(options.checkpoints) == 1:
        view = checkpoint_view.open_view(options.checkpoints[0], everything=options.all)
        found, show = describe(view), functools.partial(print_view, view)
    else:
        views = checkpoint_view.open_pair(*options.checkpoints, everything=options.all)
        found, show = compare(*views), print_comparison
    if options.json:
        json.dump(_plain(found), sys.stdout, indent=1)
        print()
    else:
        show(found)


def describe(view: View) -> dict[str, Any]:
    """Everything about one checkpoint, as JSON: arrays with shape, dtype, layout and statistics."""
    arrays: dict[str, dict[str, Any]] = {}
    for name, shape in view.shapes.items():
        value = view.read(name)
        arrays[name] = {
            "shape": list(shape),
            "dtype": view.dtypes[name] or str(value.dtype),
            "partition": view.partitions.get(name),
            **dataclasses.asdict(statistics.statistics(value)),
        }
    return {
        "path": view.path,
        "format": view.kind,
        **view.facts,
        "model": view.model,
        "arrays": arrays,
        "totals": _totals(arrays),
    }


def _totals(arrays: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """The same numbers for each part: "params", "ema"; "encoder", "decoder" of Transformers'."""
    totals: dict[str, dict[str, Any]] = {}
    for name, array in arrays.items():
        total = totals.setdefault(name.split("/")[0].split(".")[0], _empty())
        total["arrays"] += 1
        total["size"] += array["size"]
        total["not_finite"] += array["not_finite"]
        total["rms"] += array["rms"] ** 2 * (array["size"] - array["not_finite"])
        total["largest"] = max(total["largest"], array["largest"])
    for total in totals.values():
        total["rms"] = math.sqrt(total["rms"] / max(1, total["size"] - total["not_finite"]))
    return totals


def _empty() -> dict[str, Any]:
    return {"arrays": 0, "size": 0, "rms": 0.0, "largest": 0.0, "not_finite": 0}


def compare(first: View, second: View) -> dict[str, Any]:
    """Everything that differs between two checkpoints, as JSON."""
    common = [name for name in first.shapes if name in second.shapes]
    shapes = {
        name: [list(first.shapes[name]), list(second.shapes[name])]
        for name in common
        if first.shapes[name] != second.shapes[name]
    }
    changes: dict[str, Difference] = {}
    for name in common:
        if name not in shapes:
            changes[name] = statistics.difference(first.read(name), second.read(name))
    squares = np.sum([c.squares for c in changes.values()], axis=0) if changes else None
    return {
        "paths": [first.path, second.path],
        "only_first": sorted(first.shapes.keys() - second.shapes.keys()),
        "only_second": sorted(second.shapes.keys() - first.shapes.keys()),
        "shapes": shapes,
        "model": drift.differences(first.model, second.model),
        "equal": sum(change.equal for change in changes.values()),
        "relative": None if squares is None else statistics.relative(*map(float, squares)),
        "changes": {
            name: {"relative": c.relative, "largest": c.largest} for name, c in changes.items()
        },
    }


def print_view(view: View, found: Mapping[str, Any]) -> None:
    """The facts, the tree of arrays, and totals; at most :data:`WIDTH` columns."""
    _print_facts(found)
    header = {"shape": "shape", "dtype": "type", "count": "count", "rms": "rms"}
    print(_row("", **header, largest="max |x|", bad="bad", layout="sharding"))
    parents: Sequence[str] = ()
    for name, array in found["arrays"].items():
        *path, last = _branches(name, view.kind)
        for depth in range(_shared(parents, path), len(path)):
            print(_short(f"{'  ' * depth}{path[depth]}", WIDTH))
        parents = path
        shape = "x".join(map(str, array["shape"])) or "()"
        partition = array["partition"] or ""
        print(_numbers(f"{'  ' * len(path)}{last}", shape, array["dtype"], array, partition))
    for name, total in found["totals"].items():
        print(_numbers(f"{name}: {total['arrays']} arrays", "", "", total, ""))


def _print_facts(found: Mapping[str, Any]) -> None:
    for name, value in found.items():
        if name == "model" and "class" in value:
            print(f"model: {value['class']}")
        elif isinstance(value, list):
            for item in value:
                print(_short(f"{name}: {item}", WIDTH))
        elif not isinstance(value, Mapping) and value is not None:
            print(f"{name}: {value}" if name == "path" else _short(f"{name}: {value}", WIDTH))


def _branches(name: str, kind: str) -> list[str]:
    """Where an array hangs in the tree. Transformers' names have many levels: one per layer is
    enough."""
    if kind == checkpoint_view.TRANSFORMERS:
        found = re.fullmatch(r"(.*\.\d+\.)(.*)", name)
        return [found[1], found[2]] if found else [name]
    *path, last = name.split("/")
    return [*(f"{part}/" for part in path), last]


def _shared(a: Sequence[str], b: Sequence[str]) -> int:
    """How many parents two paths have in common."""
    pairs = enumerate(zip(a, b))
    return next((n for n, (x, y) in pairs if x != y), min(len(a), len(b)))


def _numbers(name: str, shape: str, dtype: str, values: Mapping[str, Any], layout: str) -> str:
    return _row(
        name,
        shape=_short(shape, 18),
        dtype=_DTYPES.get(dtype, dtype.lower())[:4],
        count=compact(values["size"]),
        rms=f"{values['rms']:.3g}",
        largest=f"{values['largest']:.3g}",
        bad=str(values["not_finite"] or "-"),
        layout=_short(layout, 16),
    )


def _row(name: str, **columns: str) -> str:
    if len(name) > _NAME:  # names differ at their ends
        name = f"…{name[1 - _NAME :]}"
    return f"{name:<{_NAME}} {_COLUMNS.format(**columns)}".rstrip()


def _short(text: str, width: int) -> str:
    return text if len(text) <= width else f"{text[: width - 1]}…"


def print_comparison(found: Mapping[str, Any]) -> None:
    """What is missing, what has another shape, and what changed most."""
    first, second = found["paths"]
    print(f"a: {first}\nb: {second}")
    for label, names in (("a", found["only_first"]), ("b", found["only_second"])):
        _print_some(f"only in {label}: {name}" for name in names)
    _print_some(
        f"shape of {name}: {'x'.join(map(str, a))} -> {'x'.join(map(str, b))}"
        for name, (a, b) in found["shapes"].items()
    )
    _print_some(f"model: {change}" for change in found["model"])
    changes = found["changes"]
    if not changes:
        print("No array of a has the name and shape of one of b: there is nothing to compare.")
        return
    print(
        f"{len(changes)} arrays in common, {found['equal']} of them equal; "
        f"|b - a| / |a| = {found['relative']:.3g} over all of them"
    )
    # NaN first: it matters most.
    ordered = sorted(changes.items(), key=lambda item: -_rank(item[1]["relative"]))
    ordered = [(name, change) for name, change in ordered if change["largest"] != 0.0]
    if ordered:
        print(f"{'':<{_DIFF_NAME}} {'|b-a|/|a|':>11} {'max |b-a|':>11}")
    for name, change in ordered[:TOP]:
        numbers = f"{change['relative']:>11.3g} {change['largest']:>11.3g}"
        print(f"{_short(name, _DIFF_NAME):<{_DIFF_NAME}} {numbers}")
    if len(ordered) > TOP:
        print(f"… and {len(ordered) - TOP} more that changed less (--json has all)")


def _rank(relative: float) -> float:
    return math.inf if math.isnan(relative) else relative


def _print_some(lines: Iterable[str]) -> None:
    lines = list(lines)
    for line in lines[:TOP]:
        print(_short(line, WIDTH))
    if len(lines) > TOP:
        print(f"… and {len(lines) - TOP} more")


def _plain(value: Any) -> Any:
    """JSON knows no NaN and no infinity: they become their names."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value
