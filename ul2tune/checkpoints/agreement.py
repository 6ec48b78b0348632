"""What the processes of a run find out together: all go on, or all stop with one message.

A process that meets an error alone would leave the others waiting for it in the next collective
operation. With one process nothing here does anything.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

_MESSAGE_BYTES = 2000


@contextlib.contextmanager
def together(*kinds: type[Exception]) -> Iterator[None]:
    """A block that succeeds in every process or in none. Collective; the block itself need not be.

    Args:
      kinds: errors by which callers decide what to do next, the more special ones first; `OSError`,
        `ValueError` and `ImportError` need not be named.

    Raises:
      Exception: the error of the first process that met one: there itself, elsewhere another of its
        kind (RuntimeError if it is of none of these) with its message.
    """
    if jax.process_count() == 1:
        yield
        return
    own: Exception | None = None
    try:
        yield
    except Exception as error:
        own = error
    every = (*kinds, OSError, ValueError, ImportError, RuntimeError)
    code, message = 0, b""
    if own is not None:
        fitting = (i for i, kind in enumerate(every) if isinstance(own, kind))
        code = 1 + next(fitting, len(every) - 1)
        message = (str(own) or type(own).__name__).encode()[:_MESSAGE_BYTES]
    row = np.frombuffer(bytes([code]) + message.ljust(_MESSAGE_BYTES, b"\0"), np.uint8)
    rows = np.asarray(multihost_utils.process_allgather(row))
    failed = np.flatnonzero(rows[:, 0])
    if not failed.size:
        return
    first = int(failed[0])
    if first == jax.process_index():
        assert own is not None
        raise own
    text = rows[first, 1:].tobytes().rstrip(b"\0").decode(errors="replace")
    raise every[rows[first, 0] - 1](f"{text} (process {first})") from own


def from_first(compute: Callable[[], Any], *kinds: type[Exception]) -> Any:
    """What `compute` returns in process 0, a JSON value, in all of them. Collective.

    Raises:
      Exception: that of process 0, as :func:`together` does.
    """
    if jax.process_count() == 1:
        return compute()
    answer = None
    with together(*kinds):
        if jax.process_index() == 0:
            answer = compute()
    text = np.frombuffer(json.dumps(answer).encode(), np.uint8)
    count = int(multihost_utils.broadcast_one_to_all(np.int32(text.size)))
    text = multihost_utils.broadcast_one_to_all(np.resize(text, count))
    return json.loads(np.asarray(text).tobytes())
