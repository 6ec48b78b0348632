from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.models import examples
from ul2tune import sharding, tree
from ul2tune.models import base
from ul2tune.sharding import MeshConfig

CONFIG = examples.config(d_kv=4, num_heads=8, num_encoder_layers=1, num_decoder_layers=1)
LOGITS = jax.jit(
    lambda params, batch: base.bind(CONFIG, params).logits(batch), compiler_options=examples.QUICK
)


def test_trees_agree():
    params = tree.flatten(base.init_params(CONFIG, jax.random.key(0)))
    abstract = tree.flatten(base.abstract_params(CONFIG))
    axes = tree.flatten(base.param_axes(CONFIG))
    assert params.keys() == abstract.keys() == axes.keys()
    for path, leaf in params.items():
        assert (leaf.shape, leaf.dtype) == (abstract[path].shape, jnp.float32)
        assert len(axes[path]) == leaf.ndim, path
        assert set(axes[path]) <= set(sharding.RULES), path
        assert (axes[path][0] == "layers") == ("/layers/" in path), path
    assert axes["encoder/layers/self_attention/out"] == ("layers", "heads", "kv", "embed")
    assert axes["token_embedding"] == ("vocab", "embed")


def test_bind_is_the_inverse_of_init():
    key = jax.random.key(0)
    built, bound = base.make(CONFIG, key), base.bind(CONFIG, base.init_params(CONFIG, key))
    np.testing.assert_array_equal(built.head_kernel(), bound.head_kernel())
    kernel = built.decoder.layers.mlp.wi_0[...]
    np.testing.assert_array_equal(kernel, bound.decoder.layers.mlp.wi_0[...])


@pytest.fixture(scope="module")
def one_device():
    params, batch = examples.params(CONFIG), examples.packed_batch()
    batch = {name: np.repeat(rows, 4, axis=0) for name, rows in batch.items()}
    return params, batch, LOGITS(params, batch)


@pytest.mark.parametrize(
    "mesh_config",
    [MeshConfig(), MeshConfig(fsdp=1, tensor=8), MeshConfig(data=2, fsdp=2, tensor=2)],
    ids=["fsdp", "tensor", "data-fsdp-tensor"],
)
def test_eight_devices_compute_what_one_does(one_device, mesh_config):
    params, batch, expected = one_device
    mesh = sharding.make_mesh(mesh_config)
    shardings = sharding.param_shardings(
        base.abstract_params(CONFIG), base.param_axes(CONFIG), mesh
    )
    with jax.set_mesh(mesh):
        placed = jax.tree.map(jax.device_put, jax.device_get(params), shardings)
        on_mesh = jax.device_put(batch, sharding.batch_sharding(mesh))
        logits = LOGITS(placed, on_mesh)
    np.testing.assert_allclose(logits, expected, atol=5e-6)
    # The large parameters really are split over all the ways of the axes that shard them.
    kernel = placed["encoder"]["layers"]["mlp"]["wi_0"]
    assert len(kernel.addressable_shards) == 8
    ways = mesh.shape["fsdp"] * mesh.shape["tensor"]
    assert kernel.addressable_shards[0].data.size * ways == kernel.size


def test_initialising_on_a_mesh_gives_the_same_parameters():
    mesh = sharding.make_mesh(MeshConfig(data=2, fsdp=2, tensor=2))
    shardings = sharding.param_shardings(
        base.abstract_params(CONFIG), base.param_axes(CONFIG), mesh
    )
    init = jax.jit(
        lambda k: base.init_params(CONFIG, k),
        out_shardings=shardings,
        compiler_options=examples.QUICK,
    )
    expected = base.init_params(CONFIG, jax.random.key(3))
    for a, b in zip(jax.tree.leaves(init(jax.random.key(3))), jax.tree.leaves(expected)):
        np.testing.assert_allclose(a, b, atol=1e-6)
