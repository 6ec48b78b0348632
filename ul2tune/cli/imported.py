"""What an imported model's folder holds, whatever it was imported from.

MODEL_DIR/checkpoints/<step>   the parameters, for INITIAL_CHECKPOINT_PATH, evaluate and infer
MODEL_DIR/model.gin            MODEL, for --gin_file
MODEL_DIR/hf/                  config.json and tokenizer files as they came
MODEL_DIR/*/import.json        where it came from, and how it was stored
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ul2tune import atomic
from ul2tune.checkpoints import layout
from ul2tune.checkpoints.description import describe
from ul2tune.checkpoints.streaming import StepWriter
from ul2tune.models.base import METHOD_FIELDS

GIN_FILE = "model.gin"
# How a run computes, for the run or its recipe to say.
_OF_RUNS = METHOD_FIELDS | {"dtype"}


@contextmanager
def new_model_dir(
    model_dir: str,
    step: int,
    config: Any,
    origin: str,
    *,
    optimizer: Any = None,
    facts: Mapping[str, Any] | None = None,
) -> Iterator[tuple[Path, StepWriter]]:
    """A MODEL_DIR with one checkpoint and model.gin; it appears complete, or not at all.

    Args:
      model_dir: the folder.
      step: names the checkpoint.
      config: the model's configuration, recorded in the checkpoint.
      origin: what wrote it, for people: a sentence.
      optimizer: the optimiser's, if its state comes along.
      facts: further JSON to keep with it.

    Yields:
      The folder to put further files into, and the writer of the parameters, ``params/…`` (and
      ``opt_state/…``).

    Raises:
      ValueError: if MODEL_DIR exists and is not empty, or `step` is negative.
    """
    if not 0 <= step < 2**31:
        raise ValueError(
            f"--step={step} is not a step: it must not be negative, and be below 2**31."
        )
    with atomic.new_folder(model_dir) as folder:
        writer = StepWriter(folder / layout.SUBDIRECTORY / str(step))
        (folder / GIN_FILE).write_text(gin_text(config, origin), "utf-8")
        yield folder, writer
        described = {"model": describe(config)}
        if optimizer is not None:
            described["optimizer"] = describe(optimizer)
        writer.finish({**(facts or {}), "config": described})


def gin_text(config: Any, origin: str) -> str:
    """A gin file that defines MODEL as `config`, like those in gin/models.

    It sets every field that is a fact of the model, so that no value of a recipe's own model stays
    in force. How a run computes it (dtype, remat, …) is left to the recipe, and dropout to the
    macro DROPOUT_RATE, as in gin/models.
    """
    blocks = _blocks(config, "")
    modules = {type(value).__module__ for value in _all(config)}
    lines = [
        f"# {origin}",
        "# With the files of a run:",
        "#   ul2tune train --gin_file=THIS_FOLDER/model.gin --gin_file=… \\",
        "#     --gin.INITIAL_CHECKPOINT_PATH=THIS_FOLDER",
        "",
        "from __gin__ import dynamic_registration",
        *(
            f"from {module.rpartition('.')[0]} import {_module(module)}"
            for module in sorted(modules)
        ),
        "",
        f"MODEL = @{_name(config)}()",
        *blocks,
    ]
    return "\n".join(lines) + "\n"


def _module(path: str) -> str:
    return path.rpartition(".")[2]


def _name(value: Any) -> str:
    return f"{_module(type(value).__module__)}.{type(value).__name__}"


def _nested(config: Any) -> dict[str, Any]:
    """The fields that are configurations themselves."""
    values = {field.name: getattr(config, field.name) for field in dataclasses.fields(config)}
    return {name: value for name, value in values.items() if dataclasses.is_dataclass(value)}


def _all(config: Any) -> list[Any]:
    """`config` and all configurations in it, however deep."""
    return [config, *(inner for value in _nested(config).values() for inner in _all(value))]


def _blocks(config: Any, scope: str) -> list[str]:
    """The bindings of `config` and, each under the scope of its field, of what is in it.

    Scopes are as long as needed: ``encoder``, ``encoder_rope``.
    """
    nested, prefix = _nested(config), f"{scope}_" if scope else ""
    lines = ["", f"{scope}/{_name(config)}:" if scope else f"{_name(config)}:"]
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if field.name in _OF_RUNS:
            continue
        if field.name in nested:
            lines.append(f"  {field.name} = @{prefix}{field.name}/{_name(value)}()")
        elif field.name == "dropout_rate":
            was = f"  # {value!r} in config.json" if value else ""
            lines.append(f"  dropout_rate = %DROPOUT_RATE{was}")
        else:
            lines.append(f"  {field.name} = {value!r}")
    for name, value in nested.items():
        lines += _blocks(value, prefix + name)
    return lines
