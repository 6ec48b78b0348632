"""Compiling quickly: thousands of small programs run once or twice here, and half of all the time
would go into making them fast.

Without LLVM's optimisations, and without XLA's newer emitters for CPUs, each of whose kernels has
an MLIR pipeline of its own (a third of a training step's compilation). Commands that tests start as
a user would are compiled as a user's.
"""

from __future__ import annotations

import os

import jax

ENVIRONMENT = {
    "XLA_FLAGS": "--xla_cpu_use_fusion_emitters=false",
    "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
}


def quickly() -> None:
    """For this process; call it before anything runs. The processes it starts do not inherit it."""
    jax.config.update("jax_disable_most_optimizations", True)
    before = os.environ.get("XLA_FLAGS")
    os.environ["XLA_FLAGS"] = f"{before or ''} {ENVIRONMENT['XLA_FLAGS']}"
    jax.devices()  # reads the flags, once
    if before is None:
        del os.environ["XLA_FLAGS"]
    else:
        os.environ["XLA_FLAGS"] = before
