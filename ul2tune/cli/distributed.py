"""Joining the other processes of a multi-host run."""

from __future__ import annotations

import argparse

import jax


def initialize(options: argparse.Namespace) -> int:
    """Connects to the coordinator when the flags ask for it; must run before JAX touches a device.

    Returns:
      The index of this process: 0 where there is only one.

    Raises:
      ValueError: if only some of the three flags are given, or JAX finds no cluster.
    """
    flags = {
        "--coordinator_address": options.coordinator_address,
        "--process_count": options.process_count,
        "--process_index": options.process_index,
    }
    given = [name for name, value in flags.items() if value is not None]
    if options.multiprocess:
        try:
            jax.distributed.initialize()
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
        )
    return jax.process_index()
