"""Everything in this folder needs an NVIDIA GPU: `make test-gpu`."""

from pathlib import Path

import jax
import pytest

HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    ours = [item for item in items if HERE in item.path.parents]
    missing = bool(ours) and jax.default_backend() != "gpu"
    for item in ours:
        item.add_marker(pytest.mark.gpu)
        if missing:
            item.add_marker(pytest.mark.skip(reason="needs an NVIDIA GPU (`make test-gpu`)"))
