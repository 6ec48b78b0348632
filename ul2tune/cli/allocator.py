"""How this process gets its memory, for training on CPU.

XLA for CPU allocates all temporary arrays of a step as one block and frees it afterwards. glibc
gives a block of that size back to the kernel, so that every step faults hundreds of megabytes in
again, page by page: a fifth of the step's time on the T5 of `tools/bench/t5_1_1_d256.gin`. And it
does not ask for huge pages, which most systems give only on request: another 3 % there, spent on
looking up addresses. The price is memory: nothing is given back, and a page in use may be one of 2
MiB.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib.util
import os
import re
import resource
import sys
from pathlib import Path

import jax

# Parameters of mallopt(3).
_TRIM_THRESHOLD, _MMAP_MAX, _ARENA_MAX = -1, -4, -8
# Of madvise(2).
_MADV_HUGEPAGE, _HUGE_PAGE = 14, 2 << 20
_ACCELERATORS = ("jax_cuda12_plugin", "jax_cuda13_plugin", "jax_rocm7_plugin", "libtpu")


def keep_freed_memory() -> bool:
    """Tells glibc to keep and reuse what is freed, in huge pages; returns whether it will keep it.

    Only where JAX can have no device but the CPU; other platforms' allocators are left alone. Must
    run before JAX starts its threads: memory areas that they already have keep their ways.
    """
    platforms = jax.config.jax_platforms  # pyright: ignore[reportAttributeAccessIssue]
    if platforms != "cpu" and any(map(_installed, _ACCELERATORS)):
        return False
    libc = ctypes.CDLL(None) if sys.platform == "linux" else None
    if not hasattr(libc, "mallopt"):
        return False
    # One area that grows and never shrinks, and no block outside of it.
    options = ((_MMAP_MAX, 0), (_TRIM_THRESHOLD, -1), (_ARENA_MAX, 1))
    kept = all(libc.mallopt(*option) for option in options)
    with contextlib.suppress(OSError):  # some sandboxes have no /proc
        if kept and _may_reserve():
            _ask_for_huge_pages(libc)
    return kept


def _installed(name: str) -> bool:
    return importlib.util.find_spec(name) is not None


def _may_reserve() -> bool:
    """Whether addresses cost nothing here until they are used."""
    strict = Path("/proc/sys/vm/overcommit_memory").read_text().strip() == "2"
    # glibc then writes to what it hands out.
    filled = "MALLOC_PERTURB_" in os.environ or "perturb" in os.environ.get("GLIBC_TUNABLES", "")
    limits = (resource.getrlimit(limit)[0] for limit in (resource.RLIMIT_AS, resource.RLIMIT_DATA))
    return not (strict or filled) and all(limit == resource.RLIM_INFINITY for limit in limits)


def _ask_for_huge_pages(libc: ctypes.CDLL) -> None:
    """Lets the area grow to half of the machine's memory at once, which takes addresses only, and
    advises the kernel to back it with huge pages. Where either fails, pages stay as they are."""
    half = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2
    libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
    libc.free.argtypes = [ctypes.c_void_p]
    libc.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    libc.free(libc.malloc(half))  # nothing is written to it; what is freed stays in the area
    area = re.search(r"^(\w+)-(\w+) .*\[heap\]$", Path("/proc/self/maps").read_text(), re.MULTILINE)
    if area:
        start, end = (int(address, 16) for address in area.groups())
        start = -(-start // _HUGE_PAGE) * _HUGE_PAGE
        libc.madvise(start, end - start, _MADV_HUGEPAGE)
