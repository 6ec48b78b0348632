from __future__ import annotations

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding

from tests.models import examples
from ul2tune import sharding
from ul2tune.models import base, relative_bias


def test_buckets_of_the_docstring():
    distances = np.array([-20, -8, -4, -3, -2, -1, 0, 1, 2, 3, 4, 8, 20])
    both = relative_bias.buckets(distances, bidirectional=True, num_buckets=8, max_distance=16)
    assert both.tolist() == [3, 3, 2, 2, 2, 1, 0, 5, 6, 6, 6, 7, 7]
    past = relative_bias.buckets(distances, bidirectional=False, num_buckets=8, max_distance=16)
    assert past.tolist() == [7, 6, 4, 3, 2, 1, 0, 0, 0, 0, 0, 0, 0]


@pytest.mark.parametrize(("name", "bidirectional"), [("bidirectional", True), ("causal", False)])
def test_buckets_are_those_of_t5(shared, name, bidirectional):
    golden = np.load(shared / "golden/ul2/relpos_buckets.npz")
    ours = relative_bias.buckets(
        golden["rel"].astype(np.int32),
        bidirectional=bidirectional,
        num_buckets=32,
        max_distance=128,
    )
    np.testing.assert_array_equal(ours, golden[name])


@pytest.mark.parametrize(
    ("num_buckets", "max_distance", "bidirectional", "distance", "bucket"),
    [
        (8, 200, True, -20, 3), (6, 100, True, 10, 5), (4, 200, False, -20, 3),
        (8, 400, False, -40, 6), (16, 400, True, 40, 14), (20, 1000, False, -100, 15),
        (36, 512, False, -96, 26),
    ],
)  # fmt: skip
def test_buckets_at_exact_powers_are_t5xs(
    num_buckets, max_distance, bidirectional, distance, bucket
):
    """As its NumPy has it, whatever else is computed beside them: XLA's logarithm is another."""
    for distances in (np.array([distance]), np.arange(-700, 701)):
        ours = relative_bias.buckets(
            distances,
            bidirectional=bidirectional,
            num_buckets=num_buckets,
            max_distance=max_distance,
        )
        assert ours[distances == distance].tolist() == [bucket]


@pytest.mark.parametrize(("length", "keys"), [(1, 1), (1, 5), (5, 1), (4, 7), (7, 4)])
def test_toeplitz_puts_a_distance_on_a_diagonal(length, keys):
    bias_HW = np.arange(2 * (length + keys - 1), dtype=np.float32).reshape(2, -1)
    matrix_HLS = relative_bias.toeplitz(jnp.asarray(bias_HW), length)
    assert matrix_HLS.shape == (2, length, keys)
    for i in range(length):
        for j in range(keys):
            np.testing.assert_array_equal(matrix_HLS[:, i, j], bias_HW[:, j - i + length - 1])


def test_bias_and_its_gradient_are_those_of_a_table_lookup():
    length, keys, max_distance = 6, 9, 7
    table_HR = jax.random.normal(jax.random.key(0), (3, 8))
    weights = jax.random.normal(jax.random.key(1), (3, length, keys))

    def ours(table_HR):
        bias_HW = relative_bias.by_distance(
            table_HR, length, keys, bidirectional=True, max_distance=max_distance
        )
        return relative_bias.toeplitz(bias_HW, length)

    def lookup(table_HR):
        distances = np.arange(keys)[None] - np.arange(length)[:, None]
        buckets = relative_bias.buckets(
            distances, bidirectional=True, num_buckets=8, max_distance=max_distance
        )
        return table_HR[:, buckets]

    np.testing.assert_array_equal(ours(table_HR), lookup(table_HR))
    grads = [jax.grad(lambda t, f=f: jnp.sum(f(t) * weights))(table_HR) for f in (ours, lookup)]
    np.testing.assert_allclose(*grads, rtol=1e-5, atol=1e-6)


def test_adding_to_rows_has_the_gradients_of_a_plain_sum():
    keys = jax.random.split(jax.random.key(0), 3)
    logits_BHLS = jax.random.normal(keys[0], (3, 2, 4, 5))
    bias_BHLS = jax.random.normal(keys[1], (1, 2, 4, 5))
    weight_BHLS = jax.random.normal(keys[2], (3, 2, 4, 5))

    def loss(add, logits, bias):
        return jnp.sum(jnp.square(add(logits, bias)) * weight_BHLS)

    for position in (1, 2):
        ours = jax.grad(loss, position)(relative_bias.add_to_rows, logits_BHLS, bias_BHLS)
        plain = jax.grad(loss, position)(jnp.add, logits_BHLS, bias_BHLS)
        np.testing.assert_allclose(ours, plain, rtol=1e-5)


def test_adding_per_group_has_the_gradients_of_a_plain_sum():
    keys = jax.random.split(jax.random.key(0), 3)
    logits_BHLS = jax.random.normal(keys[0], (6, 2, 4, 5))
    bias_GHLS = jax.random.normal(keys[1], (3, 2, 4, 5))
    weight_BHLS = jax.random.normal(keys[2], (6, 2, 4, 5))

    def plain(logits_BHLS, bias_GHLS):
        return logits_BHLS + jnp.repeat(bias_GHLS, 2, axis=0)

    def loss(add, logits, bias):
        return jnp.sum(jnp.square(add(logits, bias)) * weight_BHLS)

    for position in (1, 2):
        ours = jax.grad(loss, position)(relative_bias.add_to_rows, logits_BHLS, bias_GHLS)
        expected = jax.grad(loss, position)(plain, logits_BHLS, bias_GHLS)
        np.testing.assert_allclose(ours, expected, rtol=1e-5)


@pytest.mark.parametrize("values", [{}, {"per_layer_relative_bias": True}])
def test_devices_add_the_gradient_by_distance(values):
    """Not as [H, L, S], which is L times as much."""
    config = examples.config(num_heads=4, attention="xla", **values)
    batch = {name: jnp.tile(x, (8, 1))[:8] for name, x in examples.packed_batch().items()}
    params = examples.params(config)

    def gradient(params, batch):
        return jax.grad(lambda p: jnp.sum(base.bind(config, p).hidden(batch) ** 2))(params)

    expected = jax.jit(gradient)(params, batch)
    mesh = sharding.make_mesh(sharding.MeshConfig(data=2, fsdp=2, tensor=2))
    with jax.set_mesh(mesh):
        shardings = sharding.param_shardings(params, base.param_axes(config), mesh)
        rows = NamedSharding(mesh, sharding.spec(("batch",)))
        arguments = jax.device_put(jax.device_get(params), shardings), jax.device_put(batch, rows)
        compiled = jax.jit(gradient, out_shardings=shardings).lower(*arguments).compile()
        actual = compiled(*arguments)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4), actual, expected
    )
    lengths = {batch[f"{side}_tokens"].shape[1] for side in ("encoder_input", "decoder_target")}
    reduced = re.findall(r"= (.*) all-reduce(?:-start)?\(", compiled.as_text())
    assert reduced
    for length in lengths:
        assert not [shapes for shapes in reduced if f"{length},{length}]" in shapes]
