"""What the compiler has to say about the meshes of gin/mesh."""

from __future__ import annotations

import pytest

from tests import compiling
from tests.training import compile_meshes, processes


@pytest.mark.slow
def test_no_activation_is_replicated_against_our_will():
    """XLA prints it, on stderr, at a level that the tests' own processes leave out."""
    started = processes.launch(
        "tests.training.compile_meshes", TF_CPP_MIN_LOG_LEVEL="0", **compiling.environment()
    )
    written = processes.finish(started)
    named = [line for line in written.splitlines() if line.startswith("MESH")]
    assert len(named) == len(compile_meshes.CASES)
    telling = [line for line in written.splitlines() if "MESH" in line or "rematerial" in line]
    assert telling == named
