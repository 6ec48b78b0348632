"""A strict test process: warnings are errors, rank promotion raises, 8 CPU devices, no network."""

import gc
import os
import signal
from collections.abc import Iterator
from pathlib import Path

# Before JAX is imported anywhere.
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")

import jax
import pytest

from tests import compiling
from tests.training import one_program as share

ROOT = Path(__file__).resolve().parents[1]
SHARED = ROOT.parent / "shared"

# The vocabulary that the embedded tasks train on first use; kept out of the user's home.
os.environ.setdefault("UL2TUNE_CACHE_DIR", str(ROOT / ".cache" / "ul2tune"))

jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_compilation_cache_dir", str(ROOT / ".cache" / "jax"))
if os.environ["JAX_PLATFORMS"] == "cpu":
    compiling.quickly()
# A background job of a shell starts with SIGINT ignored; tests of interrupts need Python's handler.
signal.signal(signal.SIGINT, signal.default_int_handler)
# Tracing allocates millions of small objects beside a large heap that lives as long as the process:
# at Python's own thresholds an eighth of the time goes into looking through it.
gc.set_threshold(100_000, 50, 100)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files with slow tests first: none is left to one worker at the end."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


def pytest_collection_finish() -> None:
    """What is imported by now stays as long as the process: no collection looks through it again.
    Some tests collect garbage themselves, half a second each time."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="module")
def one_program() -> Iterator[None]:
    """What runs or trainers of this module have in common is compiled once."""
    with share.one_program():
        yield


@pytest.fixture(scope="session")
def shared() -> Path:
    """The reference outputs beside the checkout; tests that need them skip without them."""
    if not (SHARED / "golden").is_dir():
        pytest.skip(
            "reference goldens (a `shared` folder beside the checkout) are not on this machine"
        )
    return SHARED
