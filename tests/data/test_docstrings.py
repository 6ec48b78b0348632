"""The numeric examples in the docstrings of the noise are true."""

import doctest
import importlib

import pytest

MODULES = (
    "chunks",
    "denoise",
    "packing",
    "pivots",
    "policies",
    "ragged",
    "rng",
    "spans",
    "t5_compat",
    "tf_rng",
    "ul2",
)


@pytest.mark.parametrize("name", MODULES)
def test_examples(name):
    result = doctest.testmod(importlib.import_module(f"ul2tune.data.{name}"))
    assert result.attempted > 0
    assert result.failed == 0
