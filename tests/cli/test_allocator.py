from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """
import resource, sys
import jax, jax.numpy as jnp
from ul2tune.cli.allocator import keep_freed_memory
jax.config.update("jax_platforms", "cpu")
if sys.argv[1] == "keep":
    assert keep_freed_memory()
# A temporary array of 64 MB per call.
step = jax.jit(lambda n, x: jax.lax.fori_loop(0, n, lambda _, y: y + 1, jnp.outer(x, x)).sum())
x = jnp.ones(4096)
def faults(calls):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(calls):
        step(2, x).block_until_ready()
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
# The heap may still grow while the holes left by starting up are found, once per block and for
# good; memory that is given back faults in again in every window.
print(min(faults(6) for _ in range(8)))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="tunes glibc")
def test_a_step_does_not_fault_its_memory_in_again():
    faults = {
        mode: int(subprocess.run(
            [sys.executable, "-c", PROGRAM, mode], capture_output=True, text=True, check=True
        ).stdout)
        for mode in ("keep", "leave")
    }  # fmt: skip
    assert faults["leave"] >= 6 * 64e6 / 4096
    assert faults["keep"] < faults["leave"] / 10


HUGE = """
import jax, numpy as np
from ul2tune.cli.allocator import keep_freed_memory
jax.config.update("jax_platforms", "cpu")
assert keep_freed_memory()
x = np.ones(8 << 20)
print(next(line for line in open("/proc/self/smaps_rollup") if "AnonHugePages" in line).split()[1])
"""
SWITCH = Path("/sys/kernel/mm/transparent_hugepage/enabled")


@pytest.mark.skipif(
    not SWITCH.exists() or "[never]" in SWITCH.read_text(),
    reason="this kernel gives no transparent huge pages",
)
def test_memory_comes_in_huge_pages():
    done = subprocess.run([sys.executable, "-c", HUGE], capture_output=True, text=True, check=True)
    assert int(done.stdout) >= 60 << 10  # of 64 MiB, in KiB
