"""Which parameters of a whole model decay by default."""

from __future__ import annotations

from ul2tune import tree
from ul2tune.models import base
from ul2tune.models.decoder import DecoderConfig
from ul2tune.optim.optimizer import OptimizerConfig, make


def test_no_bias_of_a_decoder_decays_but_its_tables_do():
    """OPT's parts: its biases of queries, keys and values are [N, H, A], as matrices are."""
    model = DecoderConfig(
        vocab_size=12,
        d_model=8,
        num_layers=2,
        num_heads=2,
        num_kv_heads=2,
        head_dim=4,
        d_ff=16,
        max_length=16,
        learned_positions=True,
        norm="layer",
        attention_bias=True,
        attention_out_bias=True,
        mlp_bias=True,
        activation="relu",
        tied_logits=True,
    )
    abstract = base.abstract_params(model)
    config = OptimizerConfig(name="adamw", weight_decay=0.1)
    (row,) = make(config, abstract, base.param_axes(model)).rows
    sizes = {path: value.size for path, value in tree.flatten(abstract).items()}
    spared = {path for path in sizes if "bias" in path or "norm" in path}
    assert any(path.endswith("query_bias") for path in spared)
    assert any("position" in path for path in sizes.keys() - spared)
    assert row.num_decayed == sum(sizes[path] for path in sizes.keys() - spared)
