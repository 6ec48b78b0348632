"""Which parameters of whole models decay by default."""

from __future__ import annotations

import pytest

from tests.models import decoder_examples, examples, t5gemma_examples
from ul2tune import tree
from ul2tune.models import base
from ul2tune.optim.optimizer import OptimizerConfig, make

MODELS = {
    "t5": examples.config(),
    "umt5": examples.config(per_layer_relative_bias=True),
    # Its biases of queries, keys and values are [N, H, A], of as many axes as a matrix.
    "opt": decoder_examples.opt(),
    "gemma": decoder_examples.gemma(),
    "t5gemma": t5gemma_examples.first(),
    "t5gemma2": t5gemma_examples.second(),
}
SPARED = ("bias", "norm", "eoi_embedding")


@pytest.mark.parametrize("name", MODELS)
def test_matrices_and_embeddings_decay_and_nothing_else(name):
    model = MODELS[name]
    abstract = base.abstract_params(model)
    config = OptimizerConfig(name="adamw", weight_decay=0.1)
    (row,) = make(config, abstract, base.param_axes(model)).rows
    sizes = {path: value.size for path, value in tree.flatten(abstract).items()}
    spared = {path for path in sizes if any(word in path for word in SPARED)}
    assert spared
    if name == "opt":
        assert any(path.endswith("query_bias") for path in spared)
        assert any("position" in path for path in sizes.keys() - spared)
    assert row.num_decayed == sum(sizes[path] for path in sizes.keys() - spared)
