"""Compiling quickly: thousands of small programs run once or twice here, and half of all the time
would go into making them fast.

Without LLVM's optimisations and, where XLA lets us choose, without its newer emitters for CPUs,
each of whose kernels has an MLIR pipeline of its own (a third of a training step's compilation).
Code is generated in one piece (in 32, to be compiled side by side, where other tests have the other
cores), and operations do not say where they are from (a tenth of a step's tracing and compilation).
Commands that tests start as a user would, and restarts that must not lose a bit, are compiled as a
user's.
"""

from __future__ import annotations

import os

import jax

# JAX 0.12's XLA has no such choice, and stops at flags that it does not know.
_OLD_EMITTERS = "--xla_cpu_use_fusion_emitters=false" if jax.__version_info__ < (0, 11) else ""
FLAGS = f"--xla_cpu_parallel_codegen_split_count=1 {_OLD_EMITTERS}".strip()
# Of one program: with a user's emitters after all, where a test compares two programs bit by bit.
USUAL = {"xla_cpu_use_fusion_emitters": True} if _OLD_EMITTERS else {}
# Of one program: as a user's altogether, where a test is about what optimisations do.
OPTIMIZED = USUAL | {
    "xla_backend_optimization_level": 3,
    "xla_llvm_disable_expensive_passes": False,
}


def environment() -> dict[str, str]:
    """For a process that is to compile so, beside what this one inherited."""
    flags = f"{os.environ.get('XLA_FLAGS', '')} {FLAGS}".strip()
    return {
        "XLA_FLAGS": flags,
        "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
        "JAX_TRACEBACK_IN_LOCATIONS_LIMIT": "0",
    }


def quickly() -> None:
    """For this process; call it before anything runs. The processes it starts do not inherit it."""
    jax.config.update("jax_disable_most_optimizations", True)
    jax.config.update("jax_traceback_in_locations_limit", 0)
    before = os.environ.get("XLA_FLAGS")
    os.environ["XLA_FLAGS"] = environment()["XLA_FLAGS"]
    jax.devices()  # reads the flags, once
    if before is None:
        del os.environ["XLA_FLAGS"]
    else:
        os.environ["XLA_FLAGS"] = before
