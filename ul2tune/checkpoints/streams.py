"""The feed's row streams as JSON: gathered from all hosts, given back on any topology.

A feed's state is ``{name: int64 [rows, ...]}`` for the rows its process holds, with the row ids
under ``"row"``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

ROW = "row"


def gather(local: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Returns the state of all rows of the global batch, sorted by row id. Collective.

    NUMERICS: JAX has no int64 (x64 is off), so values travel between hosts as pairs of uint32.
    """
    state = {name: np.asarray(value, np.int64) for name, value in sorted(local.items())}
    # All of them side by side, for one exchange of values.
    flat = [value.reshape(len(value), -1) for value in state.values()]
    table = np.ascontiguousarray(np.concatenate(flat, axis=1))
    if jax.process_count() > 1:
        # Nothing orders the gathering behind a training step that still runs, and two programs that
        # communicate at once can wait for each other's threads for ever (seen on CPU).
        jax.block_until_ready(jax.live_arrays())
        table = _from_all(table)
    ends = np.cumsum([columns.shape[1] for columns in flat])
    parts = np.split(table, ends[:-1], axis=1)
    gathered = {
        name: part.reshape(len(table), *value.shape[1:])
        for (name, value), part in zip(state.items(), parts)
    }
    # Rows are held twice where a tensor axis spans hosts; both copies are equal.
    _, first = np.unique(gathered[ROW], return_index=True)
    return {name: value[first].tolist() for name, value in gathered.items()}


def _from_all(table: np.ndarray) -> np.ndarray:
    """All processes' rows of int64. A tensor axis across hosts may leave some with fewer rows than
    others: 3 hosts of 4 devices, of which 6 share a row."""
    counts = np.asarray(multihost_utils.process_allgather(np.int32(len(table))))
    padded = np.zeros((counts.max(), table.shape[1]), np.int64)
    padded[: len(table)] = table
    words = np.ascontiguousarray(multihost_utils.process_allgather(padded.view(np.uint32)))
    return np.concatenate([rows[:n] for rows, n in zip(words.view(np.int64), counts)])


def restore(saved: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """The arrays of a gathered state, all rows; a feed takes those it holds."""
    return {name: np.asarray(value, np.int64) for name, value in saved.items()}
