"""Several rows of targets that read one source: an encoder-decoder encodes it once."""

from __future__ import annotations

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from tests.models import examples
from tests.models import t5gemma_examples as t5gemma
from ul2tune import sharding
from ul2tune.models import base
from ul2tune.models.visibility import crossing
from ul2tune.sharding import MeshConfig

MODELS = {
    "t5": examples.config(),
    "t5_chunked": examples.config(attention="chunked", attention_chunk_tokens=5),
    "t5gemma": t5gemma.first(),
    "t5gemma_2": t5gemma.second(),
}
BY_MODEL = pytest.mark.parametrize("config", MODELS.values(), ids=MODELS)


def shared(num_sources: int, per_source: int) -> tuple[dict, dict]:
    """Targets of other lengths each (one empty) with their sources: once, and in every row."""
    rng = np.random.default_rng(0)

    def tokens(lengths, length):
        rows = rng.integers(2, examples.VOCAB, (len(lengths), length), np.int32)
        return rows * (np.arange(length) < np.asarray(lengths)[:, None])

    source_PS = tokens(5 + np.arange(num_sources) % 7, 11)
    target_BL = tokens(np.arange(num_sources * per_source) % 6, 5)
    batch = {
        "encoder_input_tokens": source_PS,
        "decoder_target_tokens": target_BL,
        "decoder_input_tokens": np.pad(target_BL, ((0, 0), (1, 0)))[:, :-1],
    }
    return batch, batch | {"encoder_input_tokens": np.repeat(source_PS, per_source, 0)}


def hidden(config):
    return lambda params, batch: base.bind(config, params).hidden(batch)


def test_example_of_the_docstring():
    seen = crossing(
        jnp.array([[1, 1], [1, 0], [0, 0], [1, 1]]),
        jnp.array([[1, 1, 0], [1, 1, 1]]),
        packed=False,
    )
    masks = [["".join(".x"[int(k)] for k in q) for q in row] for row in seen.mask()]
    assert masks == [["xx.", "xx.", "xx.", "..x"], ["...", "...", "xxx", "xxx"]]
    # Ids are no longer only 1 and, after them, 0.
    assert seen.packed
    assert not crossing(jnp.ones((2, 2)), jnp.ones((2, 3)), packed=False).packed


@BY_MODEL
def test_targets_of_one_source_read_what_they_read_alone(config):
    once, in_every_row = shared(num_sources=3, per_source=4)
    run, params = jax.jit(hidden(config), compiler_options=examples.QUICK), examples.params(config)
    real_BL = once["decoder_target_tokens"] != 0
    expected_BLD = np.asarray(run(params, in_every_row))
    np.testing.assert_allclose(
        np.asarray(run(params, once))[real_BL], expected_BLD[real_BL], rtol=0, atol=1e-5
    )
    # The sources are told apart: those of the next are others' outputs.
    others = once | {"encoder_input_tokens": np.roll(once["encoder_input_tokens"], 1, 0)}
    difference_BLD = np.abs(np.asarray(run(params, others)) - expected_BLD)
    assert difference_BLD.max(-1)[real_BL].min() > 1e-4


@BY_MODEL
def test_the_encoder_has_a_row_per_source(config):
    """No array of the program is [B, S, ...] but the keys and values of merged attention."""
    once, in_every_row = shared(num_sources=3, per_source=4)

    def per_row(batch):
        text = str(jax.make_jaxpr(hidden(config))(examples.params(config), batch))
        found = re.findall(r"f32\[([\d,]+)\]", text)
        shapes = {tuple(map(int, sizes.split(","))) for sizes in found}
        return {shape for shape in shapes if shape[:2] == (12, 11) or shape[0] == 12 * 11}

    assert per_row(in_every_row)
    merged = getattr(config, "merged_attention", False)
    assert per_row(once) == ({(12, 11, 2, 8)} if merged else set())


@BY_MODEL
def test_devices_keep_their_sources(config):
    """A source is where its targets are, so that no device waits for another."""
    once, _ = shared(num_sources=8, per_source=2)
    mesh = sharding.make_mesh(MeshConfig(data=8, fsdp=1, tensor=1))
    rows = NamedSharding(mesh, PartitionSpec(("data", "fsdp")))
    with jax.set_mesh(mesh):
        program = jax.jit(
            hidden(config),
            in_shardings=(sharding.replicated(mesh), rows),
            out_shardings=rows,
            compiler_options=examples.QUICK,
        )
        text = program.lower(examples.params(config), once).compile().as_text()
    assert "num_partitions=8" in text
    assert not re.findall(r"all-gather|all-reduce|all-to-all|collective-permute", text)
