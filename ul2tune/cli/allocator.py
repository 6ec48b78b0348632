"""Keeping freed memory in the process, for training on CPU.

XLA for CPU allocates all temporary arrays of a step as one block and frees it afterwards. glibc
gives a block of that size back to the kernel, so that every step faults hundreds of megabytes in
again, page by page: a fifth of the step's time on the T5 of `tools/bench/t5_1_1_d256.gin`.
"""

from __future__ import annotations

import ctypes
import importlib.util
import sys

import jax

# Parameters of mallopt(3).
_TRIM_THRESHOLD, _MMAP_MAX, _ARENA_MAX = -1, -4, -8
_ACCELERATORS = ("jax_cuda12_plugin", "jax_cuda13_plugin", "jax_rocm7_plugin", "libtpu")


def keep_freed_memory() -> bool:
    """Tells glibc to keep and reuse what is freed; returns whether it will.

    Only where JAX can have no device but the CPU; other platforms' allocators are left alone. Must
    run before JAX starts its threads: memory areas that they already have keep their ways.
    """
    platforms = jax.config.jax_platforms  # pyright: ignore[reportAttributeAccessIssue]
    if platforms != "cpu" and any(map(_installed, _ACCELERATORS)):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is None:
        return False
    # One area that grows and never shrinks, and no block outside of it.
    return all(
        mallopt(*option) for option in ((_MMAP_MAX, 0), (_TRIM_THRESHOLD, -1), (_ARENA_MAX, 1))
    )


def _installed(name: str) -> bool:
    return importlib.util.find_spec(name) is not None
