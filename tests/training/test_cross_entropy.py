"""Axes: B batch, L length, D model, V vocabulary."""

from __future__ import annotations

import dataclasses
import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jax.sharding import NamedSharding, PartitionSpec

from ul2tune import sharding
from ul2tune.training.cross_entropy import _Chunking, cross_entropy
from ul2tune.training.loss import LossConfig, loss_weights

B, L, D, V = 4, 10, 8, 24


def example(seed=0, dtype=jnp.float32, batch=B, length=L):
    keys = jax.random.split(jax.random.key(seed), 4)
    return (
        jax.random.normal(keys[0], (batch, length, D), dtype),
        jax.random.normal(keys[1], (V, D)),
        jax.random.randint(keys[2], (batch, length), 0, V),
        jnp.round(jax.random.uniform(keys[3], (batch, length), maxval=2), 1),
    )


def textbook(hidden_BLD, head_VD, targets_BL, weights_BL, config, softcap=None):
    """The definition, in one piece, in float32, differentiated by JAX."""
    logits_BLV = jnp.einsum("bld,vd->blv", hidden_BLD.astype(jnp.float32), head_VD)
    if softcap is not None:
        logits_BLV = softcap * jnp.tanh(logits_BLV / softcap)
    smoothing = config.label_smoothing
    soft_BLV = jax.nn.one_hot(targets_BL, V) * (1 - smoothing - smoothing / (V - 1))
    soft_BLV += smoothing / (V - 1)
    entropy = -jnp.sum(jax.scipy.special.xlogy(soft_BLV, soft_BLV), -1)
    log_z_BL = jax.nn.logsumexp(logits_BLV, -1)
    loss_BL = -jnp.sum(soft_BLV * jax.nn.log_softmax(logits_BLV), -1) - entropy
    return (loss_BL + config.z_loss * log_z_BL**2) * weights_BL


@pytest.mark.parametrize(
    ("chunk_tokens", "smoothing", "softcap"),
    [(4, 0.0, None), (12, 0.1, 3.0), (12, 0.0, None), (1000, 0.1, None), (1000, 0.0, 3.0)],
    ids=["10 chunks", "4, padded, all", "4, padded", "1, smoothed", "1, capped"],
)
def test_values_and_gradients_are_the_definitions(chunk_tokens, smoothing, softcap):
    config = LossConfig(z_loss=1e-2, label_smoothing=smoothing, chunk_tokens=chunk_tokens)
    hidden, head, targets, weights = example()

    def ours(hidden, head):
        output = cross_entropy(hidden, head, targets, weights, config, softcap)
        return jnp.sum(output.loss_BL**2), output  # cotangents that differ by token

    def theirs(hidden, head):
        loss_BL = textbook(hidden, head, targets, weights, config, softcap)
        return jnp.sum(loss_BL**2), loss_BL

    @jax.jit
    def both(*arguments):
        return [jax.value_and_grad(f, (0, 1), has_aux=True)(*arguments) for f in (ours, theirs)]

    ((_, output), grads), ((_, expected_BL), expected) = both(hidden, head)
    np.testing.assert_allclose(output.loss_BL, expected_BL, rtol=1e-5, atol=1e-5)
    for grad, want in zip(grads, expected):
        np.testing.assert_allclose(grad, want, rtol=1e-4, atol=1e-4 * float(jnp.abs(want).max()))


def test_goldens(shared):
    """T5X's compute_weighted_cross_entropy; with D = V and an identity head, hidden = logits."""
    golden = np.load(shared / "golden/ul2/losses.npz")
    logits, targets = jnp.asarray(golden["logits"]), golden["targets"]
    weights, eye = golden["weights"], jnp.eye(logits.shape[-1])
    for smoothing in ("0", "0.1"):
        for z_loss in ("0", "0.0001", "0.01"):
            name = f"ls{smoothing}_z{z_loss}"
            config = LossConfig(
                z_loss=float(z_loss), label_smoothing=float(smoothing), chunk_tokens=3
            )

            def total(logits, config=config):
                output = cross_entropy(logits, eye, targets, weights, config)
                return jnp.sum(output.loss_BL), jnp.sum(output.z_loss_BL)

            (loss, z), grad = jax.jit(jax.value_and_grad(total, has_aux=True))(logits)
            np.testing.assert_allclose(loss, golden[f"{name}_loss"], rtol=1e-6)
            np.testing.assert_allclose(z, golden[f"{name}_zloss"], rtol=1e-6)
            np.testing.assert_allclose(grad, golden[f"{name}_grad"], rtol=0, atol=1e-6)
            assert weights.sum() == golden[f"{name}_wsum"]


@pytest.mark.parametrize(("scale", "offset"), [(100.0, 0.0), (1.0, 1000.0), (100.0, -1000.0)])
def test_gradients_of_large_logits_are_exact(scale, offset):
    """Against float64: rounding follows the logits' differences, not their size."""
    logits, targets = large_logits(scale, offset)
    z_loss = 1e-4
    exact = logits.astype(np.float64)
    highest = exact.max(-1, keepdims=True)
    exps = np.exp(exact - highest)
    sums = exps.sum(-1, keepdims=True)
    right = np.arange(V) == targets[..., None]
    expected = (1 + 2 * z_loss * (np.log(sums) + highest)) * exps / sums - right
    grad = logits_gradient(logits, targets, LossConfig(z_loss=z_loss, chunk_tokens=16))
    np.testing.assert_allclose(grad, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_a_z_loss_that_is_off_does_not_overflow(dtype):
    hidden = jnp.full((1, 1, 1), 1e30, dtype)
    output = cross_entropy(hidden, jnp.array([[1.0], [0.0]]), [[0]], config=LossConfig(z_loss=0.0))
    assert output.loss_BL.tolist() == output.z_loss_BL.tolist() == [[0.0]]


def test_gradients_of_large_capped_logits_sum_to_zero():
    """The cap's own rounding hides in the logits; that probabilities sum to 1 does not."""
    logits, targets = large_logits(1.0, 1000.0)
    softcap = 2000.0
    grad = logits_gradient(logits, targets, LossConfig(z_loss=0.0), softcap)
    slope = 1 - np.tanh(logits.astype(np.float64) / softcap) ** 2
    np.testing.assert_allclose((grad / slope).sum(-1), 0, atol=1e-6)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_a_target_that_is_no_id_has_only_the_smoothed_rest(smoothing):
    """As T5X's one-hot rows of such targets."""
    logits, _, _, _ = example()
    targets = jnp.asarray([-1, D, 1000, 3])[:, None] * jnp.ones((1, L), jnp.int32)
    config = LossConfig(z_loss=1e-2, label_smoothing=smoothing)
    output = jax.jit(cross_entropy, static_argnums=4)(logits, jnp.eye(D), targets, None, config)
    on, off = 1 - smoothing, smoothing / (D - 1)
    soft_BLD = jnp.where(targets[..., None] == jnp.arange(D)[None, None], on, off)
    entropy = -sum(n * p * math.log(p) for n, p in ((1, on), (D - 1, off)) if p)
    expected_BL = -jnp.sum(soft_BLD * jax.nn.log_softmax(logits), -1) - entropy
    expected_BL += 1e-2 * jax.nn.logsumexp(logits, -1) ** 2
    np.testing.assert_allclose(output.loss_BL, expected_BL, atol=2e-6)


def large_logits(scale, offset):
    rng = np.random.default_rng(0)
    logits = (rng.uniform(-scale, scale, (B, L, V)) + offset).astype(np.float32)
    logits[..., 1] = logits.max(-1) + 0.7  # so that no probability is 1
    return logits, rng.integers(0, V, (B, L))


def logits_gradient(logits, targets, config, softcap=None):
    def total(logits):
        return jnp.sum(cross_entropy(logits, jnp.eye(V), targets, None, config, softcap).loss_BL)

    return jax.jit(jax.grad(total))(logits)


def test_weights_default_to_one_and_scale_everything():
    hidden, head, targets, _ = example()
    plain = jax.jit(cross_entropy)(hidden, head, targets)
    doubled = jax.jit(cross_entropy)(hidden, head, targets, jnp.full((B, L), 2.0))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(2 * a, b, rtol=1e-6), plain, doubled)


def test_z_loss_is_part_of_the_loss_and_carries_no_gradient_of_its_own():
    hidden, head, targets, weights = example()
    run = jax.jit(cross_entropy, static_argnames="config")
    with_z = run(hidden, head, targets, weights, config=LossConfig(z_loss=0.1))
    without = run(hidden, head, targets, weights, config=LossConfig(z_loss=0.0))
    np.testing.assert_allclose(with_z.loss_BL - with_z.z_loss_BL, without.loss_BL, atol=1e-5)
    assert not without.z_loss_BL.any()
    z_only = jax.jit(jax.grad(lambda h: jnp.sum(cross_entropy(h, head, targets).z_loss_BL)))
    assert not z_only(hidden).any()


def test_bfloat16_hidden_states_keep_a_float32_head_gradient():
    config = LossConfig(chunk_tokens=8)
    hidden, head, targets, weights = example(dtype=jnp.bfloat16)

    def total(hidden, head):
        return jnp.sum(cross_entropy(hidden, head, targets, weights, config).loss_BL)

    def exact(hidden, head):
        return jnp.sum(textbook(hidden, head, targets, weights, config))

    loss, grads = jax.jit(jax.value_and_grad(total, (0, 1)))(hidden, head)
    expected, wanted = jax.jit(jax.value_and_grad(exact, (0, 1)))(hidden, head)
    assert loss.dtype == jnp.float32
    assert [g.dtype for g in grads] == [jnp.bfloat16, jnp.float32]
    np.testing.assert_allclose(loss, expected, rtol=1e-2)
    np.testing.assert_allclose(grads[1], wanted[1], atol=2e-2 * float(jnp.abs(wanted[1]).max()))
    # More than bfloat16's 8 bits of mantissa: the sum over chunks was not rounded.
    assert (grads[1] != grads[1].astype(jnp.bfloat16).astype(jnp.float32)).any()


def array_sizes(jaxpr) -> set[int]:
    """Numbers of elements of all arrays in a jaxpr, loop bodies included."""
    sizes = {math.prod(v.aval.shape) for v in (*jaxpr.invars, *jaxpr.constvars, *jaxpr.outvars)}
    for equation in jaxpr.eqns:
        sizes |= {math.prod(v.aval.shape) for v in equation.outvars}
        for parameter in jax.tree.leaves(
            equation.params, is_leaf=lambda x: hasattr(x, "eqns") or hasattr(x, "jaxpr")
        ):
            inner = getattr(parameter, "jaxpr", parameter)
            if hasattr(inner, "eqns"):
                sizes |= array_sizes(inner)
    return sizes


def hlo_array_sizes(text: str) -> set[int]:
    shapes = re.findall(r"\b(?:f|bf|s|u|pred)\d*\[([\d,]+)\]", text)
    return {math.prod(int(size) for size in shape.split(",")) for shape in shapes}


def test_the_logits_of_a_batch_never_exist():
    batch, length, vocab, chunk = 4, 64, 512, 32
    hidden, targets = jnp.ones((batch, length, D)), jnp.ones((batch, length), jnp.int32)
    head = jnp.ones((vocab, D))

    def total(hidden, head, config):
        return jnp.sum(cross_entropy(hidden, head, targets, None, config).loss_BL)

    whole = batch * length * vocab
    for function in (total, jax.grad(total, (0, 1))):
        for chunk_tokens, largest in ((chunk, chunk * vocab), (batch * length, whole)):

            def run(hidden, head, chunk_tokens=chunk_tokens, function=function):
                return function(hidden, head, LossConfig(chunk_tokens=chunk_tokens))

            # The second chunk size shows that the detector sees what it looks for.
            assert max(array_sizes(jax.make_jaxpr(run)(hidden, head).jaxpr)) == largest
            compiled = jax.jit(run).lower(hidden, head).compile().as_text()
            assert max(hlo_array_sizes(compiled)) == largest


def test_sharded_over_data_fsdp_and_tensor_it_equals_one_device():
    batch, length = 8, 12
    config = LossConfig(chunk_tokens=4)
    hidden, head, targets, weights = example(batch=batch, length=length)

    def total(hidden, head):
        output = cross_entropy(hidden, head, targets, weights, config)
        return jnp.sum(output.loss_BL), output

    step = jax.jit(jax.value_and_grad(total, (0, 1), has_aux=True))
    expected = step(hidden, head)
    mesh = sharding.make_mesh(sharding.MeshConfig(data=2, fsdp=2, tensor=2))
    rows = NamedSharding(mesh, sharding.spec(("batch",)))
    split = NamedSharding(mesh, sharding.spec(("vocab", "embed")))
    with jax.set_mesh(mesh):
        sharded = jax.jit(jax.value_and_grad(total, (0, 1), has_aux=True), out_shardings=None)
        arguments = jax.device_put(hidden, rows), jax.device_put(head, split)
        actual = sharded(*arguments)
        text = sharded.lower(*arguments).compile().as_text()
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5), actual, expected
    )
    # Per device: rows / 4, chunks of 4 tokens, half the vocabulary. Logits are never gathered.
    assert f"[2,2,{V // 2}]" in text
    assert not re.search(rf"f32\[\d+,\d+,{V}\]", text)
    assert text.count("while(") == 2  # one loop forward, one backward


def test_rows_that_do_not_divide_over_the_mesh_still_work():
    config = LossConfig(chunk_tokens=8)
    hidden, head, targets, weights = example(batch=3)

    @jax.jit
    def gradients(hidden, head, targets, weights):
        def total(hidden, head):
            return jnp.sum(cross_entropy(hidden, head, targets, weights, config).loss_BL)

        return jax.value_and_grad(total, (0, 1))(hidden, head)

    expected = gradients(hidden, head, targets, weights)
    mesh = sharding.make_mesh(sharding.MeshConfig(data=2, fsdp=2, tensor=2))
    with jax.set_mesh(mesh):
        whole = NamedSharding(mesh, PartitionSpec())
        arguments = jax.device_put((hidden, head, targets, weights), whole)
        actual = gradients(*arguments)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5), actual, expected
    )


PERTURBED = {
    "z_loss": 1e-2,
    "label_smoothing": 0.2,
    "normalizer": "sum",
    "chunk_tokens": 4,
}


@pytest.mark.parametrize("field", [f.name for f in dataclasses.fields(LossConfig)])
def test_every_field_changes_something(field):
    hidden, head, targets, _ = example()
    batch = {"decoder_target_tokens": targets}

    def program(config):
        def objective(hidden):
            weights_BL, normalizer = loss_weights(batch, config)
            return jnp.sum(cross_entropy(hidden, head, targets, weights_BL, config).loss_BL) / (
                normalizer
            )

        # The chunk size changes the computation only, all else its value.
        return jax.jit(objective)(hidden), str(jax.make_jaxpr(objective)(hidden))

    default = program(LossConfig())
    changed = program(LossConfig(**{field: PERTURBED[field]}))
    assert default[1] != changed[1]
    if field == "chunk_tokens":
        np.testing.assert_allclose(default[0], changed[0], rtol=1e-6)
    else:
        assert abs(default[0] - changed[0]) > 1e-3


@given(
    batch_size=st.integers(1, 300), length=st.integers(1, 2048), chunk_tokens=st.integers(1, 9000)
)
def test_chunks_hold_no_more_tokens_than_asked(batch_size, length, chunk_tokens):
    """But for the least there can be: one position of every row."""
    size = _Chunking.of(batch_size, length, chunk_tokens).size
    assert 1 <= size <= length
    assert size == 1 or batch_size * size <= chunk_tokens
