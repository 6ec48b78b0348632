"""Every field of a decoder-only model's configuration does something; nonsense is refused."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.models import decoder_examples as tiny
from tests.models import examples
from tests.models.test_decoder import logits
from ul2tune import tree
from ul2tune.models import base
from ul2tune.models.decoder import DecoderConfig
from ul2tune.models.rotary import Rope

# One other value per field, seen in a model like Gemma 3 or, where it has none, one like OPT.
CHANGES: dict[str, Any] = {
    "vocab_size": 40,
    "d_model": 24,
    "num_layers": 2,
    "num_heads": 2,
    "num_kv_heads": 1,
    "head_dim": 4,
    "d_ff": 40,
    "activation": "silu_gated",
    "norm": "rms",
    "norm_order": "pre",
    "final_norm": False,
    "norm_eps": 0.1,
    "qk_norm": False,
    "attention_bias": True,
    "attention_out_bias": True,
    "mlp_bias": True,
    "rope": Rope(theta=2000.0, scaling="linear", factor=2.0),
    "local_rope": Rope(theta=20.0),
    "query_scalar": None,
    "attention_softcap": 1.0,
    "logit_softcap": None,
    "attention_pattern": "GL",
    "sliding_window": 2,
    "scale_embeddings": False,
    "tied_logits": False,
    "start_id": 3,
    "dropout_rate": 0.5,
    "attention_dropout_rate": 0.5,
    "dtype": "bfloat16",
    "remat": "full",
    "scan_layers": False,
    "attention": "chunked",
    "attention_chunk_tokens": 3,
}
OPT_CHANGES: dict[str, Any] = {"embedding_dim": None, "max_length": 80}
T5_CHANGES: dict[str, Any] = {
    "relative_buckets": 6,
    "relative_max_distance": 5,
    "scale_logits": False,
}
# One change of two fields, which contradict each other alone.
BOTH: dict[str, Any] = {"learned_positions": {"learned_positions": False, "rope": Rope()}}
HOW = ("remat", "scan_layers", "attention", "attention_chunk_tokens")
CASES = {
    **{name: (tiny.gemma(), {name: value}) for name, value in CHANGES.items()},
    **{name: (tiny.opt(), {name: value}) for name, value in OPT_CHANGES.items()},
    **{name: (tiny.opt(), values) for name, values in BOTH.items()},
    **{name: (tiny.t5(), {name: value}) for name, value in T5_CHANGES.items()},
}


def test_every_field_is_perturbed():
    assert set(CASES) == {field.name for field in dataclasses.fields(DecoderConfig)}


def shapes(config: DecoderConfig) -> Any:
    return jax.tree.map(lambda x: x.shape, base.abstract_params(config))


@pytest.mark.parametrize("name", sorted(CASES))
def test_every_field_is_live(name):
    before, changes = CASES[name]
    if name == "attention_chunk_tokens":  # matters to "chunked" alone
        before = dataclasses.replace(before, attention="chunked")
    after = dataclasses.replace(before, **changes)
    if name in HOW:

        def program(config):
            batch = tiny.packed_batch()
            grad = jax.grad(lambda p: jnp.sum(base.bind(config, p).logits(batch)))
            return str(jax.make_jaxpr(grad)(base.abstract_params(config)))

        assert program(before) != program(after)
        return
    if shapes(before) == shapes(after):
        params, key = examples.params(before), jax.random.key(0)
        results = (logits(config, params, tiny.packed_batch(), key) for config in (before, after))
        # Far beyond rounding: the largest change of a logit.
        difference = np.abs(np.subtract(*results)).max()
        assert difference > 1e-3, difference


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"activation": "tanh"}, r"activation = 'tanh' is not one of \('relu',"),
        ({"norm": "batch"}, "norm = 'batch' is not one of"),
        ({"dropout_rate": 1.0}, r"dropout_rate = 1.0 is not in \[0, 1\)"),
        ({"norm_eps": 0.0}, "norm_eps = 0.0 must be positive"),
        ({"head_dim": 0}, "head_dim = 0 must be an integer >= 1"),
        ({"sliding_window": 2.5}, "sliding_window = 2.5 must be an integer"),
        ({"logit_softcap": 0.0}, "logit_softcap = 0.0 must be positive"),
        ({"logit_softcap": math.inf}, "logit_softcap = inf must be positive"),
        ({"query_scalar": math.nan}, "query_scalar = nan must be positive"),
        ({"num_kv_heads": 3}, "num_kv_heads = 3 does not divide num_heads = 4"),
        ({"head_dim": 7}, "head_dim = 7 must be even"),
        ({"rope": None}, "set exactly one of them"),
        ({"learned_positions": True}, "set exactly one of them"),
        ({"attention_pattern": "LX"}, "attention_pattern = 'LX' must be letters"),
        ({"attention_pattern": "G"}, "sliding_window = 3 belongs to patterns with L"),
        ({"sliding_window": None}, "sliding_window = None belongs to patterns with L"),
        (
            {"attention_pattern": "G", "sliding_window": None},
            "local_rope needs rope, and local layers",
        ),
        ({"attention": "cudnn"}, "'cudnn' cannot cap its logits"),
        ({"start_id": 32}, "start_id = 32 is not an id of the 32 rows"),
    ],
)
def test_impossible_configurations_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        tiny.gemma(**changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rope": Rope()}, "set exactly one of them"),
        ({"learned_positions": True}, "set exactly one of them"),
        ({"relative_buckets": None}, "set exactly one of them"),
        ({"relative_max_distance": None}, "relative_max_distance = None need each other"),
        (
            {"relative_buckets": None, "learned_positions": True},
            "relative_buckets = None and relative_max_distance = 10 need each other",
        ),
        ({"attention_dropout_rate": 0.1}, "dropout_rate acts there too"),
        ({"relative_buckets": 1}, "relative_buckets = 1 must be at least 2"),
        ({"relative_max_distance": 4}, "less than twice relative_max_distance = 4"),
        ({"relative_buckets": 8.0}, "relative_buckets = 8.0 must be an integer"),
        ({"sliding_window": 3, "attention_pattern": "L", "local_rope": Rope()}, "needs rope"),
    ],
)
def test_impossible_relative_positions_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        tiny.t5(**changes)


@pytest.mark.parametrize(
    ("path", "std"),
    [
        ("token_embedding", 64**-0.5),
        ("layers/attention/query", 64**-0.5),
        ("layers/attention/value", 64**-0.5),
        ("layers/attention/out", (4 * 32) ** -0.5),
        ("layers/mlp/wi_0", 64**-0.5),
        ("layers/mlp/wo", 128**-0.5),
        ("layers/attention/query_bias", 0.0),
        ("final_norm/scale", 0.0),
    ],
)
def test_initial_scales(path, std):
    check_initial_scale(tiny.gemma(**WIDE, attention_bias=True), path, std)


@pytest.mark.parametrize(
    ("path", "std"),
    [
        ("token_embedding", 1.0),
        ("head", 64**-0.5),
        ("relative_bias", (2 / (16 + 32)) ** 0.5),
        ("layers/attention/query", (64 * 32) ** -0.5),
        ("layers/attention/key", 64**-0.5),
        ("layers/mlp/wo", 128**-0.5),
    ],
)
def test_initial_scales_of_t5(path, std):
    """Those of T5X: the query's has what other families divide logits by, if nothing does."""
    wide = {"num_heads": 16, "num_kv_heads": 16, "relative_buckets": 32}
    config = tiny.t5(**WIDE, **wide, relative_max_distance=128, tied_logits=False)
    check_initial_scale(config, path, std)
    if path == "layers/attention/query":
        scaled = dataclasses.replace(config, query_scalar=None)
        check_initial_scale(scaled, path, std * 32**0.5)


WIDE = {"vocab_size": 512, "d_model": 64, "head_dim": 32, "d_ff": 128, "num_layers": 2}


def check_initial_scale(config: DecoderConfig, path: str, std: float) -> None:
    init = jax.jit(base.init_params, static_argnums=0, compiler_options=examples.QUICK)
    leaf = tree.flatten(init(config, jax.random.key(0)))[path]
    np.testing.assert_allclose(np.std(leaf), std, rtol=0.1)
    if std and leaf.ndim > 2:  # stacked layers are independent draws
        assert np.abs(leaf[0] - leaf[1]).min() > 0
