"""What the loop over tokens reads: prepared before it, and the same model."""

from __future__ import annotations

import dataclasses
import functools
import re
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.extend.core import jaxprs_in_params

from tests.models import decoder_examples, examples, t5gemma_examples
from ul2tune import sharding, tree
from ul2tune.decoding.generate import generate
from ul2tune.decoding.interface import Rules
from ul2tune.decoding.sampling import SamplingConfig
from ul2tune.models import base

FAMILIES = {
    "t5": examples.config(),
    "t5 with a bias per layer": examples.config(per_layer_relative_bias=True, tied_logits=True),
    "gemma": decoder_examples.gemma(),
    "opt": decoder_examples.opt(),
    "t5 decoder": decoder_examples.t5(),
    "t5gemma": t5gemma_examples.first(),
    "t5gemma2": t5gemma_examples.second(),
}
scans = pytest.mark.parametrize("scan", [True, False], ids=["scanned", "inline"])
families = pytest.mark.parametrize("name", FAMILIES)


def setup(name: str, scan: bool) -> tuple[Any, Any, dict[str, np.ndarray]]:
    """A configuration in bfloat16, its parameters, and prompts."""
    config = dataclasses.replace(FAMILIES[name], scan_layers=scan, dtype="bfloat16")
    tokens = np.random.default_rng(0).integers(2, examples.VOCAB, (3, 6), dtype=np.int32)
    side = "encoder" if "encoder_decoder" in config.LAYOUTS else "decoder"
    return config, examples.params(config), {f"{side}_input_tokens": tokens}


# Every product of its own operands in their own dtype, as when primitives run one by one.
EXACT = {**examples.QUICK, "xla_allow_excess_precision": False}


@scans
@families
def test_the_model_that_is_read_is_the_same(name, scan):
    """To the last bit: only when and how often numbers are cast differs."""
    config, params, batch = setup(name, scan)

    @functools.partial(jax.jit, static_argnames="ready", compiler_options=EXACT)
    def decode(params, ready):
        model = base.bind(config, params)
        cache = model.start_decoding(batch, max_decode_length=2)
        reader = model.unstacked() if ready else model
        logits = []
        for index, token in enumerate((0, 5)):
            logits_BV, cache = reader.decode_step(cache, jnp.full(3, token), index)
            logits.append(logits_BV)
        return jnp.stack(logits)

    expected = decode(params, ready=False)
    assert jnp.array_equal(decode(base.in_compute_dtype(config, params), ready=True), expected)
    assert jnp.isfinite(expected).all()


def equations(jaxpr: Any) -> Iterator[Any]:
    for equation in jaxpr.eqns:
        yield equation
        for inner in jaxprs_in_params(equation.params):
            yield from equations(inner)


@scans
@families
def test_no_matrix_is_cast_and_no_stack_is_cut_for_every_token(name, scan):
    config, params, batch = setup(name, scan)
    narrow = tree.flatten(base.in_compute_dtype(config, params))
    once = (
        "encoder/",
        "decoder/layers/cross_attention/key",
        "decoder/layers/cross_attention/value",
    )
    used = {path: x for path, x in narrow.items() if not path.startswith(once)}
    stacks = [x for path, x in used.items() if "layers/" in path and x.dtype == jnp.bfloat16]

    def run(params, batch):
        model = base.bind(config, base.in_compute_dtype(config, params))
        names_B2 = jnp.zeros((3, 2), jnp.uint32)
        return generate(
            model, batch, SamplingConfig(max_decode_length=4), Rules(num_ids=30), names_B2
        )

    traced = jax.make_jaxpr(run)(params, batch)
    (loop,) = [x for x in traced.eqns if x.primitive.name == "while"]
    body = loop.params["body_jaxpr"].jaxpr
    casts = [x for x in equations(body) if x.primitive.name == "convert_element_type"]
    least = min(x.size // x.shape[0] for x in stacks)
    assert casts
    assert all(x.invars[0].aval.size < least for x in casts)
    read = {x.aval.shape for x in body.invars}
    assert all((x.shape in read) == scan and (x.shape[1:] in read) != scan for x in stacks)


@pytest.mark.parametrize("name", ["t5", "gemma", "t5gemma", "t5gemma2"])
def test_what_is_generated_for_a_prompt_stays_on_its_device(name):
    """Over a mesh that splits rows alone: the loop asks whether all rows are done, no more."""
    config, params, _ = setup(name, scan=True)
    side = "encoder" if "encoder_decoder" in config.LAYOUTS else "decoder"
    batch = {f"{side}_input_tokens": np.full((8, 6), 5)}
    mesh = sharding.make_mesh(sharding.MeshConfig(data=4, fsdp=2))
    placed = jax.device_put(batch, sharding.batch_sharding(mesh))

    def communicated(**how: Any) -> list[str]:
        sampling = SamplingConfig(max_decode_length=4, **how)

        @functools.partial(jax.jit, out_shardings=sharding.replicated(mesh))
        def run(params, batch):
            names_B2 = jnp.zeros((8, 2), jnp.uint32)
            return generate(base.bind(config, params), batch, sampling, Rules(num_ids=30), names_B2)

        with jax.set_mesh(mesh):
            text = run.lower(params, placed).compile().as_text()
        kinds = "all-gather|all-reduce|all-to-all|collective-permute|reduce-scatter"
        return re.findall(rf"= (.*? (?:{kinds})[\w-]*)\(.*while/", text)

    for how in ({}, {"temperature": 0.7, "top_k": 5, "top_p": 0.9}, {"num_beams": 3}):
        assert communicated(**how) == ["pred[] all-reduce"], how
