"""TensorFlow as this package uses it: for reading and tokenizing, on the CPU, and quiet.

Preparing must never take an accelerator's memory: JAX owns it.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator


@contextlib.contextmanager
def _native_stderr_closed() -> Iterator[None]:
    """Drops what native code writes to stderr.

    TensorFlow logs which accelerators it lacks while it is being loaded, before its own settings
    for logging take effect. Python exceptions are not affected.
    """
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


with _native_stderr_closed():
    import tensorflow as tf

tf.config.set_visible_devices([], "GPU")
tf.config.set_visible_devices([], "TPU")

__all__ = ["tf"]
