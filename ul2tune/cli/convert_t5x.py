"""`ul2tune import t5x` and `ul2tune export t5x`: between T5X's checkpoints and ours."""

from __future__ import annotations

import argparse
import ast
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ul2tune import __version__, atomic, tree
from ul2tune.checkpoints import description, initialize, layout
from ul2tune.checkpoints.restore import restore_step
from ul2tune.checkpoints.streaming import StepWriter
from ul2tune.cli import exported, imported
from ul2tune.convert.hf import folder as hf_folder
from ul2tune.convert.t5x import models as t5x
from ul2tune.convert.t5x import moments as t5x_moments
from ul2tune.convert.t5x.moments import AdafactorMoments
from ul2tune.models import base
from ul2tune.models.decoder import DecoderConfig
from ul2tune.models.t5 import T5Config
from ul2tune.optim.adafactor import AdafactorConfig, AdafactorState
from ul2tune.optim.descent import DescentState
from ul2tune.optim.factoring import Factoring
from ul2tune.optim.optimizer import OptimizerConfig
from ul2tune.signal_handlers import raise_ignored_interrupt
from ul2tune.status_line import Progress

FOLDER, RECORD = "t5x", "import.json"
_HINT = "Leave the optimiser's state out with --no_optimizer_state."


def import_model(options: argparse.Namespace) -> None:
    """Writes MODEL_DIR with a checkpoint and model.gin; Adafactor's state comes along.

    Raises:
      ValueError: if the model is not one we represent exactly, is damaged or hostile; nothing is
        written then.
    """
    source = t5x.open_model(options.source, _told(options.set or ()))
    moments, optimizer = None, None
    if not options.no_optimizer_state and source.has_adafactor:
        if options.step is not None:
            raise ValueError(f"--step would contradict the optimiser's state. {_HINT}")
        momentum = 0.9 if _has_momentum(source) else None
        stacked_as = "scanned" if source.layout.scanned else "unscanned"
        adafactor = AdafactorConfig(stacked_as=stacked_as, momentum=momentum)
        optimizer = OptimizerConfig(adafactor=adafactor)
        moments = t5x.load_moments(source, _plans(adafactor, source.config))
    step = source.step if options.step is None else options.step
    progress = Progress("imported", source.num_bytes, "MB", per=10**6)
    origin = f"Written by `ul2tune import t5x {options.source}`."
    target = imported.new_model_dir(
        options.model_dir, step, source.config, origin, optimizer=optimizer
    )
    dtypes: list[str] = []  # as stored; the embedding's comes first
    with target as (folder, writer):
        for path, shape, pieces in source.arrays():
            array = writer.array(f"{initialize.PARAMS}/{path}", shape)
            for piece in pieces:
                raise_ignored_interrupt()
                array.append(piece)
                dtypes.append(piece.dtype.name)
                progress.advance(4 * piece.size)
        if moments is not None:
            _write_state(writer, moments)
        (folder / FOLDER).mkdir()
        record = {
            "source": options.source,
            "ul2tune": __version__,
            "layout": "scanned" if source.layout.scanned else "plain",
            "dtype": dtypes[0],
        }
        hf_folder.write_json(folder / FOLDER / RECORD, record)
    progress.close()
    print(f"{options.model_dir}: checkpoint of step {step}; MODEL in {imported.GIN_FILE}.")
    for note in (*source.notes, _state_note(optimizer)):
        print(f"note: {note}.")


def _state_note(optimizer: OptimizerConfig | None) -> str:
    if optimizer is None:
        return "no optimiser state was taken over"
    adafactor = optimizer.adafactor
    tuned = f", AdafactorConfig.stacked_as = {adafactor.stacked_as!r}"
    if adafactor.momentum is not None:
        tuned += " and AdafactorConfig.momentum set to T5X's beta1"
    return (
        f"Adafactor's state came along; a run takes it up with from_checkpoint.keep_optimizer = "
        f"True{tuned}"
    )


def _has_momentum(source: t5x.Source) -> bool:
    name = f"{t5x_moments.STATES}{source.weights[0].names[0]}/m"
    return name in source.tensors.names and tuple(source.tensors.shape(name)) != t5x_moments.UNUSED


def _told(settings: tuple[str, ...] | list[str]) -> dict[str, Any]:
    """--set FIELD=VALUE."""
    told: dict[str, Any] = {}
    for setting in settings:
        field, equals, text = setting.partition("=")
        if not equals:
            raise ValueError(f"--set {setting} has no value: write --set FIELD=VALUE.")
        try:
            told[field] = ast.literal_eval(text)
        except (ValueError, SyntaxError):
            told[field] = text
    return told


def _plans(adafactor: AdafactorConfig, config: Any) -> dict[str, Factoring]:
    axes = tree.flatten(base.param_axes(config))
    shapes = tree.flatten(base.abstract_params(config))
    return {path: adafactor.factoring(path, shapes[path].shape, axes[path]) for path in axes}


def _write_state(writer: StepWriter, moments: AdafactorMoments) -> None:
    """The state that `optim.optimizer.make` gives an Adafactor without gradient clipping."""
    count = jnp.asarray(moments.step, jnp.int32)
    trees = [tree.unflatten(dict(m)) for m in (moments.v_row, moments.v_col, moments.v)]
    momentum = () if moments.momentum is None else tree.unflatten(dict(moments.momentum))
    state = (AdafactorState(count, *trees), DescentState(count, momentum))
    for path, array in layout.flatten({initialize.OPTIMIZER: state}).items():
        writer.array(path, array.shape, array.dtype).append(np.asarray(array))


def export_model(options: argparse.Namespace) -> None:
    """Writes a checkpoint's parameters, and Adafactor's state if it has one, for T5X.

    Raises:
      ValueError: if T5X has no such model, or cannot hold the optimiser's state.
    """
    step_dir = initialize.resolve(options.checkpoint)
    config = description.model_of(step_dir)
    if not isinstance(config, T5Config | DecoderConfig):
        raise ValueError(
            f"T5X's examples have no {type(config).__name__.removesuffix('Config')}; only models "
            f"of the T5 family can be exported."
        )
    if options.dtype not in ("stored", *t5x.DTYPES):
        raise ValueError(f"--dtype={options.dtype} is not one of T5X's: {', '.join(t5x.DTYPES)}.")
    record = _record(step_dir)
    own_biases = isinstance(config, T5Config) and config.per_layer_relative_bias
    default = "scanned" if own_biases else "plain"
    state = None if options.no_optimizer_state else _read_state(step_dir, config)
    export = t5x.Export(
        config=config,
        step=int(step_dir.name),
        moments=None if state is None else state.moments,
        plans=None if state is None else state.plans,
        layout=options.layout or record.get("layout", default),
        format=options.t5x_format or "legacy",
        dtype=record.get("dtype", "float32") if options.dtype == "stored" else options.dtype,
    )
    read = exported.Reader(step_dir, config, ema=options.ema)
    with atomic.naming(options.directory):
        written = t5x.export_checkpoint(options.directory, export, read)
    with_state = "without an optimiser state" if state is None else "with Adafactor's state"
    print(f"{written}: {export.layout} layers, {export.dtype}, {with_state}.")


def _record(step_dir: Path) -> Mapping[str, Any]:
    """How the model was stored before it was imported; {} if it was not."""
    file = layout.model_dir(step_dir) / FOLDER / RECORD
    return json.loads(file.read_text("utf-8")) if file.is_file() else {}


@dataclass(frozen=True, kw_only=True)
class _State:
    moments: AdafactorMoments
    plans: Mapping[str, Factoring]


def _read_state(step_dir: Path, config: Any) -> _State | None:
    """Adafactor's state of a checkpoint; None if it holds no optimiser state at all.

    Raises:
      ValueError: for another optimiser's.
    """
    meta = layout.read_meta(step_dir)
    saved = {p: v for p, v in meta["leaves"].items() if p.startswith(f"{initialize.OPTIMIZER}/")}
    if not saved:
        return None
    described = meta.get("config", {}).get("optimizer", {})
    if described.get("name") != "adafactor":
        raise ValueError(
            f"{step_dir} holds the state of {described.get('name', 'an unknown optimiser')!r}; "
            f"only Adafactor's has a counterpart in T5X. {_HINT}"
        )
    fields = {k: v for k, v in described["adafactor"].items() if k != "class"}
    adafactor = AdafactorConfig(**fields)
    sharding = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    abstract = {
        path: jax.ShapeDtypeStruct(tuple(shape), jnp.dtype(dtype), sharding=sharding)
        for path, (shape, dtype, *_) in saved.items()
    }
    state = layout.flatten(restore_step(step_dir, tree.unflatten(abstract)).state)
    parts: dict[str, dict[str, np.ndarray]] = {}
    for path, array in state.items():
        found = re.fullmatch(rf"{initialize.OPTIMIZER}/\d+/(v_row|v_col|v|momentum)/(.*)", path)
        if found:
            parts.setdefault(found[1], {})[found[2]] = np.asarray(array)
    counts = {int(array) for path, array in state.items() if path.endswith("/count")}
    plans = _plans(adafactor, config)
    if len(counts) != 1 or parts["v"].keys() != plans.keys():
        raise ValueError(
            f"{step_dir}: Adafactor's state covers {len(parts['v'])} of {len(plans)} parameters "
            f"(others are frozen) and counts {sorted(counts)} updates; T5X's covers all. {_HINT}"
        )
    moments = AdafactorMoments(
        step=counts.pop(),
        v_row=parts["v_row"],
        v_col=parts["v_col"],
        v=parts["v"],
        momentum=parts.get("momentum"),
    )
    return _State(moments=moments, plans=plans)
