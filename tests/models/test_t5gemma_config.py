"""Every field of a T5Gemma's configuration does something; nonsense is refused."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.models import examples
from tests.models import t5gemma_examples as tiny
from tests.models.test_t5gemma import logits
from ul2tune.models import base
from ul2tune.models.rotary import Rope
from ul2tune.models.t5gemma import SIDES, StackConfig, T5GemmaConfig

# One other value per field: of T5Gemma 2 and its stacks, or of T5Gemma.
CHANGES: dict[str, Any] = {
    "vocab_size": 40,
    "tied_logits": False,
    "logit_softcap": 2.0,
    "start_id": 3,
    "eoi_id": 20,
    "dropout_rate": 0.5,
    "attention_dropout_rate": 0.5,
    "dtype": "bfloat16",
    "remat": "full",
    "scan_layers": False,
    "attention": "chunked",
    "attention_chunk_tokens": 3,
    "tied_embeddings": False,
    "qk_norm": False,
    "merged_attention": False,
}
STACK: dict[str, Any] = {
    "d_model": 24,
    "num_layers": 1,
    "num_heads": 8,
    "num_kv_heads": 1,
    "head_dim": 12,
    "d_ff": 40,
    "activation": "silu_gated",
    "norm_eps": 0.3,
    "attention_bias": True,
    "rope": Rope(theta=5.0),
    "local_rope": None,
    "query_scalar": None,
    "attention_softcap": 0.5,
    "attention_pattern": "GL",
    "sliding_window": 1,
}
HOW = ("remat", "scan_layers", "attention", "attention_chunk_tokens")


def test_every_field_is_perturbed():
    names = {field.name for field in dataclasses.fields(T5GemmaConfig)}
    assert set(CHANGES) | set(SIDES) == names
    # test_t5gemma: encoders' windows, and rows beyond the model.
    elsewhere = {"right_window", "max_length"}
    assert set(STACK) | elsewhere == {field.name for field in dataclasses.fields(StackConfig)}


def check_live(before: T5GemmaConfig, after: T5GemmaConfig) -> None:
    shapes = [
        jax.tree.map(lambda x: x.shape, base.abstract_params(config)) for config in (before, after)
    ]
    if shapes[0] == shapes[1]:
        params, key = examples.params(before), jax.random.key(0)
        results = (logits(c, params, examples.packed_batch(), key) for c in (before, after))
        # Far beyond rounding: the largest change of a logit.
        difference = np.abs(np.subtract(*results)).max()
        assert difference > 1e-3, difference


@pytest.mark.parametrize("name", sorted(CHANGES))
def test_every_field_is_live(name):
    # The chunk size matters to "chunked" alone.
    before = tiny.second(**({"attention": "chunked"} if name == "attention_chunk_tokens" else {}))
    after = dataclasses.replace(before, **{name: CHANGES[name]})
    if name in HOW:

        def program(config):
            batch = examples.packed_batch()
            grad = jax.grad(lambda p: jnp.sum(base.bind(config, p).logits(batch)))
            return str(jax.make_jaxpr(grad)(base.abstract_params(config)))

        assert program(before) != program(after)
        return
    check_live(before, after)


@pytest.mark.parametrize("name", sorted(STACK))
def test_every_field_of_a_stack_is_live(name):
    before = tiny.first() if name == "d_model" else tiny.second()

    def changed(side: str) -> T5GemmaConfig:
        other = dataclasses.replace(getattr(before, side), **{name: STACK[name]})
        return dataclasses.replace(before, **{side: other})

    check_live(before, changed("decoder"))
    # Both stacks are built by one class from what `gemma` says.
    assert changed("encoder").gemma("encoder") != before.gemma("encoder")
    assert changed("encoder").gemma("decoder") == before.gemma("decoder")


def stack(**changes: Any) -> StackConfig:
    return dataclasses.replace(tiny.ENCODER, **changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"dtype": "float16"}, "makes up its encoder: DecoderConfig.dtype = 'float16'"),
        ({"decoder": stack(num_heads=3)}, "makes up its decoder: .* does not divide num_heads = 3"),
        ({"decoder": stack(right_window=2)}, "a decoder sees nothing to its right"),
        ({"encoder": stack(right_window=0)}, "right_window = 0 must be a positive integer"),
        (
            {"encoder": stack(attention_pattern="G", sliding_window=None, right_window=2)},
            "right_window = 2 must be a positive integer beside sliding_window",
        ),
        ({"merged_attention": True}, "merged_attention needs .* one d_model, not 16 and 8"),
        ({"tied_embeddings": True}, "tied_embeddings needs .* one d_model, not 16 and 8"),
        ({"eoi_id": -1}, "eoi_id = -1 must be an id below vocab_size"),
        ({"eoi_id": 256_000}, "eoi_id = 256000 must be an id below vocab_size"),
        ({"start_id": 32}, "start_id = 32 is not an id"),
        ({"attention": "cudnn"}, "'cudnn' cannot cap its logits"),
    ],
)
def test_impossible_configurations_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        tiny.first(**changes)
