"""Joining the other processes of a multi-host run, and leaving them."""

from __future__ import annotations

import argparse
import os
import sys

# A process that is silent for this long counts as gone, and the others end. The signs of life come
# from threads of JAX, whatever Python is doing.
HEARTBEAT_TIMEOUT_SECS = 30
_joined = False


def initialize(options: argparse.Namespace) -> int:
    """Connects to the coordinator when the flags ask for it; must run before JAX touches a device.

    Returns:
      The index of this process: 0 where there is only one.

    Raises:
      ValueError: if only some of the three flags are given, or JAX finds no cluster.
    """
    import jax  # commands that do not need it answer faster

    global _joined
    flags = {
        "--coordinator_address": options.coordinator_address,
        "--process_count": options.process_count,
        "--process_index": options.process_index,
    }
    given = [name for name, value in flags.items() if value is not None]
    if options.multiprocess:
        try:
            jax.distributed.initialize(heartbeat_timeout_seconds=HEARTBEAT_TIMEOUT_SECS)
        except ValueError as error:
            raise ValueError(
                f"--multiprocess: JAX finds no cluster here ({str(error).rstrip('.')}). Give "
                f"{', '.join(flags)} instead."
            ) from error
    elif given:
        missing = [name for name in flags if name not in given]
        if missing:
            raise ValueError(f"{given[0]} needs {' and '.join(missing)} too.")
        jax.distributed.initialize(
            coordinator_address=options.coordinator_address,
            num_processes=options.process_count,
            process_id=options.process_index,
            heartbeat_timeout_seconds=HEARTBEAT_TIMEOUT_SECS,
        )
    _joined = jax.process_count() > 1
    return jax.process_index()


def is_joined() -> bool:
    """Whether other processes may be waiting for this one."""
    return _joined


def leave(status: int) -> int:
    """Ends a process that failed at once, if it has joined others; else returns `status`.

    An orderly end would wait minutes for the others, and they for what this one no longer computes.
    They notice that it is gone, and end too.
    """
    if not _joined:
        return status
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)
