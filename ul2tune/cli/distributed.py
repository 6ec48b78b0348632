"""Joining the other processes of a multi-host run, and leaving them."""

from __future__ import annotations

import argparse
import os
import re
import sys

# A process that has sent no heartbeat for this long counts as gone, and the others end. Heartbeats
# are sent by threads of JAX, whatever Python is doing.
HEARTBEAT_TIMEOUT_SECS = 30
# In the errors that JAX raises for a collective operation when another process has gone. Gloo's
# errors about connections are among them, those about mismatched operations are not. (Mostly JAX
# ends this process itself, without an exception, and prints that another one died.)
_PEER_GONE = re.compile(
    r"by peer|broken pipe|\bGloo\b.*timed out|coordination service", re.IGNORECASE | re.DOTALL
)
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


def lost_peer(error: BaseException) -> str | None:
    """What to say and do where `error` means that another process has gone; None if it does not."""
    if not _joined:
        return None
    import jax

    if not isinstance(error, jax.errors.JaxRuntimeError) or not _PEER_GONE.search(str(error)):
        return None
    first, *_ = str(error).splitlines()
    return (
        f"process {jax.process_index()} of {jax.process_count()} has lost another one ({first}). "
        f"Look at the last lines of the others for what ended the first, then start all of them "
        f"again; a run goes on from its newest checkpoint."
    )


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
