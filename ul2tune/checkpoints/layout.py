"""What a checkpoint is on disk: its folders and metadata, and errors about those in one sentence.

DIRECTORY/<step>/state/         arrays, a nested dict of parameters and all that trains: written by
                                Orbax (OCDBT), or piece by piece as plain zarr (`streaming`)
DIRECTORY/<step>/meta/metadata  JSON: leaves {path: [shape, dtype, fingerprint]}, streams, clock,
                                configuration
DIRECTORY/<step>.bad            a checkpoint that failed verification, never read again
DIRECTORY/<step>.orbax-checkpoint-tmp*
                                an unfinished write (a kill); removed by the next run
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shlex
import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax

from ul2tune import tree
from ul2tune.types import Tree

FORMAT_VERSION = 1
STATE, META = "state", "meta"
# Under MODEL_DIR.
SUBDIRECTORY = "checkpoints"


class CorruptCheckpointError(ValueError):
    """One checkpoint cannot be trusted: unreadable, incomplete, or not what was saved."""


# What TensorStore appends to a sentence: representations of its objects.
_DETAILS = re.compile(r" \[[a-z_ ]+(\[\d+\])?='")


def sentence(error: BaseException) -> str:
    """What is wrong with which file, out of Orbax's and TensorStore's many lines."""
    while error.__cause__ is not None:  # TensorStore's own error, where Orbax raised another
        error = error.__cause__
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return textwrap.shorten(_DETAILS.split(lines[0])[0], 500, placeholder=" …")


def after_a_failed_write(directory: str | Path) -> str:
    """What is left, and what to do, where a run cannot write; `directory` has its checkpoints."""
    found = steps(directory)
    intact = f"step {found[-1]}" if found else "none"
    return (
        f"Newest complete checkpoint: {intact}. Free disk space or fix permissions, then run the "
        f"same command again to resume."
    )


def refuse_unreadable(step_dir: str | Path) -> None:
    """For a checkpoint that could not be read: files this user may not read are not damaged.

    Raises:
      PermissionError: naming the first of them.
    """
    for path in (Path(step_dir), *sorted(Path(step_dir).rglob("*"))):
        # What is not there (removed by the run that wrote it, a link to nowhere) has no rights.
        if os.path.exists(path) and not os.access(
            path, os.R_OK | (os.X_OK if path.is_dir() else 0)
        ):
            raise PermissionError(
                f"{path} may not be read by this user (Permission denied). The checkpoint may be "
                f"sound: have its owner run `chmod -R a+rX {shlex.quote(str(step_dir))}`, then run "
                f"the same command again."
            )


def flatten(state: Tree) -> dict[str, Any]:
    """``{"params/encoder/…": leaf, "opt_state/0/mu/…": leaf}`` for any pytree."""
    flat: dict[str, Any] = {}
    for path, leaf in jax.tree_util.tree_flatten_with_path(state)[0]:
        keys = [_key(entry) for entry in path]
        assert all(tree.SEPARATOR not in key for key in keys), keys
        flat[tree.SEPARATOR.join(keys)] = leaf
    return flat


def unflatten(flat: Mapping[str, Any], like: Tree) -> Tree:
    """The inverse of :func:`flatten` into the structure of `like`."""
    return jax.tree.unflatten(jax.tree.structure(like), [flat[path] for path in flatten(like)])


def _key(entry: Any) -> str:
    for name in ("key", "name", "idx"):
        if hasattr(entry, name):
            return str(getattr(entry, name))
    raise TypeError(f"Unknown kind of tree path entry: {entry!r}")


def describe(flat: Mapping[str, Any]) -> dict[str, list[Any]]:
    """Shape and dtype per path, as JSON; also of `jax.ShapeDtypeStruct`."""
    return {path: [list(leaf.shape), str(leaf.dtype)] for path, leaf in sorted(flat.items())}


def steps(directory: str | Path) -> list[int]:
    """Steps of the complete-looking checkpoints under `directory`, ascending. Folders whose name is
    not as a step's ("0005", "²") are something else."""
    directory = Path(directory)
    if not directory.is_dir():
        return []
    folders = [path for path in directory.iterdir() if path.is_dir()]
    return sorted(int(p.name) for p in folders if re.fullmatch("0|[1-9][0-9]*", p.name))


def model_dir(step_dir: Path) -> Path:
    """The MODEL_DIR of ``MODEL_DIR/checkpoints/<step>``, where an import leaves further files. A
    copy of a step that lies elsewhere has none, and this is some other folder."""
    return step_dir.parent.parent


def seal(meta: Mapping[str, Any]) -> dict[str, Any]:
    """Adds the checksum that lets :func:`read_meta` notice a damaged file."""
    return {**meta, "sha256": _digest(meta)}


def read_meta(step_dir: str | Path) -> dict[str, Any]:
    """Reads and verifies the JSON of one checkpoint.

    Raises:
      CorruptCheckpointError: if it is missing or damaged.
      PermissionError: if it may not be read.
      ValueError: if a newer version of this package made it.
    """
    path = Path(step_dir) / META / "metadata"
    try:
        meta = json.loads(path.read_text(encoding="utf-8"))
        sealed = meta.pop("sha256")
    except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
        refuse_unreadable(step_dir)
        raise CorruptCheckpointError(f"{path} is missing or damaged ({error})") from error
    if sealed != _digest(meta):
        raise CorruptCheckpointError(f"{path} is damaged (checksum differs)")
    if meta["format_version"] != FORMAT_VERSION:
        raise ValueError(
            f"{step_dir} was made by a newer ul2tune: its format version is "
            f"{meta['format_version']}, this one reads {FORMAT_VERSION}. Update ul2tune."
        )
    return meta


def _digest(meta: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(meta, sort_keys=True).encode()).hexdigest()
