from __future__ import annotations

import dataclasses
import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ul2tune import sharding
from ul2tune.models import attention, relative_bias
from ul2tune.models.attention import Implementation
from ul2tune.models.visibility import Visibility

QUERIES, KEYS = np.array([[1, 1, 2, 2, 0], [1, 1, 1, 0, 0]]), np.array([[1, 2, 2, 2], [1, 1, 0, 0]])


def visibility(*, causal: bool, cross: bool) -> Visibility:
    keys = KEYS if cross else QUERIES
    return Visibility(
        query_BL=jnp.asarray(QUERIES), key_BS=jnp.asarray(keys), causal=causal, packed=True
    )


def normal(rng: np.random.Generator, *shape: int, dtype=jnp.float32) -> jax.Array:
    return jax.device_put(rng.standard_normal(shape, np.float32).astype(dtype))


def random_inputs(seen: Visibility, *, with_bias: bool = True, dtype=jnp.float32):
    rng = np.random.default_rng(0)
    (batch, length), source = seen.query_BL.shape, seen.key_BS.shape[1]
    query, key, value = (normal(rng, batch, n, 3, 8, dtype=dtype) for n in (length, source, source))
    return query, key, value, normal(rng, 3, length + source - 1) if with_bias else None


def attend(query, key, value, bias_HW, seen: Visibility, how: Implementation, **kwargs):
    """One program instead of one per primitive."""
    attend = jax.jit(lambda *inputs: attention.attend(*inputs, seen, how, **kwargs))
    return attend(query, key, value, bias_HW)


def by_hand(query, key, value, bias_HW, mask_BLS):
    """One query at a time, in float64."""
    query, key, value = (np.asarray(x, np.float64) for x in (query, key, value))
    out = np.zeros(query.shape)
    for b, i, h in itertools.product(*map(range, query.shape[:3])):
        seen = np.flatnonzero(mask_BLS[b, i])
        if not seen.size:
            continue
        logits = np.array([query[b, i, h] @ key[b, j, h] for j in seen])
        if bias_HW is not None:
            logits += np.array([bias_HW[h, j - i + query.shape[1] - 1] for j in seen])
        weights = np.exp(logits - logits.max())
        out[b, i, h] = weights / weights.sum() @ value[b, seen, h]
    return out


def test_masks_of_the_docstring():
    segments = jnp.array([[1, 1, 2, 2, 0]])
    seen = Visibility(query_BL=segments, key_BS=segments, causal=False, packed=True)
    both = ["xx...", "xx...", "..xx.", "..xx.", "....x"]
    causal = ["x....", "xx...", "..x..", "..xx.", "....x"]
    assert _drawn(seen.mask()[0]) == both
    seen = Visibility(query_BL=segments, key_BS=segments, causal=True, packed=True)
    assert _drawn(seen.mask()[0]) == causal
    assert _drawn(seen.mask(1, 3)[0]) == [row[1:4] for row in causal]


def _drawn(mask_LS) -> list[str]:
    return ["".join("x" if seen else "." for seen in row) for row in np.asarray(mask_LS)]


@pytest.mark.parametrize("chunk_tokens", [None, 1, 2, 3, 64])
@pytest.mark.parametrize(("causal", "cross"), [(False, False), (True, False), (False, True)])
def test_implementations_agree_with_attention_by_hand(causal, cross, chunk_tokens):
    seen = visibility(causal=causal, cross=cross)
    name = "xla" if chunk_tokens is None else "chunked"
    how = Implementation(name=name, chunk_tokens=chunk_tokens or 1)
    inputs = random_inputs(seen, with_bias=not cross)
    out = attend(*inputs, seen, how)
    np.testing.assert_allclose(out, by_hand(*inputs, np.asarray(seen.mask())), atol=2e-6)


@pytest.mark.parametrize(("causal", "cross"), [(False, False), (True, False), (False, True)])
def test_chunked_gradients_are_those_of_xla(causal, cross):
    """Also, across, those of queries that see no key."""
    seen = visibility(causal=causal, cross=cross)
    inputs = random_inputs(seen)
    weights = normal(np.random.default_rng(9), *inputs[0].shape)

    def loss(inputs, how):
        return jnp.sum(attention.attend(*inputs, seen, how) * weights)

    gradient = jax.jit(jax.grad(loss), static_argnums=1)
    xla = gradient(inputs, Implementation(name="xla", chunk_tokens=1))
    chunked = gradient(inputs, Implementation(name="chunked", chunk_tokens=2))
    for ours, theirs in zip(chunked, xla):
        assert np.abs(theirs).max() > 0.1
        np.testing.assert_allclose(ours, theirs, atol=5e-6)


def _largest(jaxpr) -> int:
    """Elements of the largest array in a jaxpr and the jaxprs inside it."""
    sizes = [math.prod(v.aval.shape) for eqn in jaxpr.eqns for v in eqn.outvars]
    inner: list[int] = []
    for eqn in jaxpr.eqns:
        for value in jax.tree.leaves(
            list(eqn.params.values()), is_leaf=lambda x: hasattr(x, "eqns") or hasattr(x, "jaxpr")
        ):
            sub = getattr(value, "jaxpr", value)
            if hasattr(sub, "eqns"):
                inner.append(_largest(sub))
    return max([*sizes, *inner], default=0)


def test_chunked_never_holds_all_logits_forward_or_backward():
    length, heads = 256, 3
    segments = jnp.ones((1, length), jnp.int32)
    seen = Visibility(query_BL=segments, key_BS=segments, causal=True, packed=False)
    inputs = random_inputs(seen)

    def loss(inputs, how):
        return jnp.sum(attention.attend(*inputs, seen, how))

    largest = {
        name: _largest(jax.make_jaxpr(jax.grad(loss), static_argnums=1)(inputs, how).jaxpr)
        for name in ("xla", "chunked")
        if (how := Implementation(name=name, chunk_tokens=16))
    }
    assert largest["xla"] >= heads * length * length
    # A chunk's bias is spread over [H, C, L + C] before it is cut.
    assert largest["chunked"] <= heads * 16 * (length + 16)


def grouped_case():
    """Four query heads over two of keys, packed, with a prefix and a window."""
    seen = visibility(causal=True, cross=False)
    prefix = jnp.array([[1, 0, 1, 1, 0], [1, 1, 0, 0, 0]])
    seen = dataclasses.replace(seen, prefix_BL=prefix, window=2)
    rng = np.random.default_rng(1)
    return seen, *(normal(rng, 2, 5, n, 8) for n in (4, 2, 2))


def test_masks_with_prefix_and_window():
    segments = jnp.ones((1, 5), jnp.int32)
    seen = Visibility(query_BL=segments, key_BS=segments, causal=True, packed=False)
    prefix = jnp.array([[1, 1, 1, 0, 0]])
    both = dataclasses.replace(seen, prefix_BL=prefix, window=2)
    rows = ["xx...", "xxx..", ".xx..", "..xx.", "...xx"]
    assert _drawn(both.mask()[0]) == rows
    assert _drawn(both.mask(3, 2)[0]) == [row[3:] for row in rows]
    only = dataclasses.replace(seen, prefix_BL=prefix)
    assert _drawn(only.mask()[0]) == ["xxx..", "xxx..", "xxx..", "xxxx.", "xxxxx"]
    bidirectional = dataclasses.replace(seen, causal=False, window=2)
    assert _drawn(bidirectional.mask()[0]) == ["xx...", "xxx..", ".xxx.", "..xxx", "...xx"]


@pytest.mark.parametrize("softcap", [None, 1.5])
def test_query_heads_share_keys(softcap):
    seen, query, key, value = grouped_case()
    how = Implementation(name="xla", chunk_tokens=1)
    out = attend(query, key, value, None, seen, how, softcap=softcap)
    key, value = (np.repeat(np.asarray(x), 2, axis=2) for x in (key, value))
    if softcap is None:
        expected = by_hand(query, key, value, None, np.asarray(seen.mask()))
    else:
        scores = np.einsum("BLHA,BSHA->BHLS", query, key)
        scores = softcap * np.tanh(scores / softcap)
        scores = np.where(np.asarray(seen.mask())[:, None], scores, -np.inf)
        expected = np.einsum("BHLS,BSHA->BLHA", jax.nn.softmax(scores), value)
    np.testing.assert_allclose(out, expected, atol=3e-6)


@pytest.mark.parametrize("chunk_tokens", [2, 3, 64])
def test_chunked_gradients_are_those_of_xla_with_groups_prefixes_and_caps(chunk_tokens):
    seen, *inputs = grouped_case()

    def gradients(how: Implementation):
        def loss(query, key, value):
            out = attention.attend(query, key, value, None, seen, how, softcap=1.5)
            return jnp.sum(jnp.sin(out))

        return jax.jit(jax.value_and_grad(loss, argnums=(0, 1, 2)))(*inputs)

    chunked = gradients(Implementation(name="chunked", chunk_tokens=chunk_tokens))
    whole = gradients(Implementation(name="xla", chunk_tokens=1))
    for got, want in zip(jax.tree.leaves(chunked), jax.tree.leaves(whole), strict=True):
        np.testing.assert_allclose(got, want, atol=2e-5)


def test_softmax_is_float32_whatever_the_compute_dtype():
    seen = visibility(causal=True, cross=False)
    inputs = random_inputs(seen, dtype=jnp.bfloat16)
    exact = by_hand(*inputs, np.asarray(seen.mask()))
    for how in (("xla", 1), ("chunked", 2)):
        out = attend(*inputs, seen, Implementation(name=how[0], chunk_tokens=how[1]))
        assert out.dtype == jnp.bfloat16
        np.testing.assert_allclose(np.asarray(out, np.float32), exact, atol=0.03)


def test_cudnn_says_what_it_lacks():
    seen = visibility(causal=True, cross=False)
    how = Implementation(name="cudnn", chunk_tokens=1)
    with pytest.raises(ValueError, match=r"needs an NVIDIA GPU.*use 'xla' or 'chunked'"):
        attention.attend(*random_inputs(seen), seen, how)


class FakeDevice:
    def __init__(self, compute_capability):
        self.compute_capability = compute_capability


@pytest.fixture
def gpu(monkeypatch):
    """As far as one gets without a GPU: JAX accepts the shapes and emits cuDNN's kernels."""
    cudnn = pytest.importorskip("jax._src.cudnn.fused_attention_stablehlo")
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    monkeypatch.setattr(jax, "local_devices", lambda: [FakeDevice("9.0")])
    monkeypatch.setattr(cudnn, "check_cudnn_version", lambda: 91000)
    monkeypatch.setattr(cudnn, "check_compute_capability", lambda capability: True)


@pytest.mark.usefixtures("gpu")
@pytest.mark.parametrize(
    ("dtype", "length", "softcap", "fused"),
    [("bfloat16", 8, None, True), ("float32", 8, None, False), ("bfloat16", 7, None, False),
     ("bfloat16", 8, 2.0, False)],
)  # fmt: skip
def test_auto_is_cudnn_where_it_can_be_had(dtype, length, softcap, fused):
    segments = jnp.ones((2, length), jnp.int32)
    seen = Visibility(query_BL=segments, key_BS=segments, causal=True, packed=False)
    how = Implementation(name="auto", chunk_tokens=1)
    x_BLHA = jnp.ones((2, length, 4, 64), dtype)

    def attended(x_BLHA):
        return attention.attend(x_BLHA, x_BLHA, x_BLHA, None, seen, how, softcap=softcap)

    lowered = jax.jit(attended).trace(x_BLHA).lower(lowering_platforms=("cuda",))
    assert ("__cudnn$fmha" in lowered.as_text()) == fused


@pytest.mark.usefixtures("gpu")
@pytest.mark.parametrize(
    ("capability", "tensor", "lacks"),
    [("9.0", 1, None), ("8.0", 2, None), ("7.5", 1, "8.0 or more, and this is 7.5"),
     ("gfx942", 1, "and this is gfx942"), ("9.0", 4, "not 2 by 4")],
)  # fmt: skip
def test_auto_leaves_cudnn_where_it_cannot_run(monkeypatch, capability, tensor, lacks):
    monkeypatch.setattr(jax, "local_devices", lambda: [FakeDevice(capability)])
    query, key = jnp.ones((2, 8, 4, 64), jnp.bfloat16), jnp.ones((2, 8, 2, 64), jnp.bfloat16)
    mesh = jax.sharding.AbstractMesh((1, 1, tensor), ("data", "fsdp", "tensor"))
    with jax.sharding.use_abstract_mesh(mesh):
        found = attention._cudnn_lacks(query, key, None)
    assert found is None if lacks is None else lacks in found


@pytest.mark.usefixtures("gpu")
@pytest.mark.parametrize(
    ("flags", "lacks"),
    [("", None), ("--xla_gpu_deterministic_ops=false --xla_gpu_autotune_level=1", None),
     ("--xla_gpu_deterministic_ops", "--xla_gpu_deterministic_ops in XLA_FLAGS"),
     ("--a=1 --xla_gpu_exclude_nondeterministic_ops=true --b=2",
      "does not run with --xla_gpu_exclude_nondeterministic_ops=true")],
)  # fmt: skip
def test_auto_leaves_cudnn_where_all_bits_are_to_be_reproduced(monkeypatch, flags, lacks):
    monkeypatch.setenv("XLA_FLAGS", flags)
    x_BLHA = jnp.ones((2, 8, 4, 64), jnp.bfloat16)
    found = attention._cudnn_lacks(x_BLHA, x_BLHA, None)
    assert found is None if lacks is None else lacks in found


@pytest.mark.usefixtures("gpu")
@pytest.mark.parametrize("name", ["auto", "xla"])
def test_auto_says_once_why_it_is_not_cudnn_on_a_machine_that_has_it(caplog, name):
    attention._tell.cache_clear()
    segments, x_BLHA = jnp.ones((2, 7), jnp.int32), jnp.ones((2, 7, 4, 64), jnp.bfloat16)
    seen = Visibility(query_BL=segments, key_BS=segments, causal=True, packed=False)
    for _ in range(2):  # two layers
        how = Implementation(name=name, chunk_tokens=1)
        attention.attend(x_BLHA, x_BLHA, x_BLHA, None, seen, how)
    told = ["cuDNN's needs even lengths, not 7 and 7."] if name == "auto" else []
    assert [record.getMessage().partition(": ")[2] for record in caplog.records] == told


@pytest.mark.usefixtures("gpu")
@pytest.mark.parametrize(
    ("flags", "groups"), [("", 1), ("--xla_gpu_exclude_nondeterministic_ops=true", 8)]
)
def test_a_bias_is_spread_per_group_of_rows_where_auto_is_not_cudnn(monkeypatch, flags, groups):
    monkeypatch.setenv("XLA_FLAGS", flags)
    how = Implementation(name="auto", chunk_tokens=1)
    mesh = sharding.make_mesh(sharding.MeshConfig(data=2, fsdp=4, tensor=1))
    with jax.set_mesh(mesh):
        spread = jax.eval_shape(lambda: attention.spread(jnp.ones((4, 9)), (8, 5), how))
    assert spread.shape == (groups, 4, 5, 5)


@pytest.mark.usefixtures("gpu")
def test_no_query_of_cudnn_sees_nothing(monkeypatch):
    """Packed rows with padding on one side only: cuDNN's softmax over nothing is NaN."""
    handed = {}

    def kernel(query_BLHA, *_, **more):
        handed.update(more)
        return query_BLHA

    monkeypatch.setattr(jax.nn, "dot_product_attention", kernel)
    query_BL, key_BS = jnp.array([[1, 1, 2, 0]]), jnp.array([[1, 1, 1, 3]])
    seen = Visibility(query_BL=query_BL, key_BS=key_BS, causal=False, packed=True)
    x_BLHA = jnp.ones((1, 4, 2, 64), jnp.bfloat16)
    how = Implementation(name="cudnn", chunk_tokens=1)
    out = attention.attend(x_BLHA, x_BLHA, x_BLHA, None, seen, how)
    assert _drawn(handed["mask"][0, 0]) == ["xxx.", "xxx.", "xxxx", "xxxx"]
    assert out[0, :, 0, 0].tolist() == [1, 1, 0, 0]
    rows = Visibility(
        query_BL=jnp.ones((2, 4), jnp.int32),
        key_BS=jnp.array([[1, 0, 0, 0], [0, 0, 0, 0]]),
        causal=False,
        packed=False,
    )
    x_BLHA = jnp.repeat(x_BLHA, 2, axis=0)
    out = attention.attend(x_BLHA, x_BLHA, x_BLHA, None, rows, how)
    assert handed["key_value_seq_lengths"].tolist() == [1, 1]
    assert out[:, 0, 0, 0].tolist() == [1, 0]


@pytest.mark.usefixtures("gpu")
@pytest.mark.parametrize("window", [None, 3])
def test_cudnn_lowers_shared_heads_and_refuses_caps(window):
    segments = jnp.ones((2, 8), jnp.int32)
    seen = Visibility(query_BL=segments, key_BS=segments, causal=True, packed=False, window=window)
    how = Implementation(name="cudnn", chunk_tokens=1)
    query, key = jnp.ones((2, 8, 4, 64), jnp.bfloat16), jnp.ones((2, 8, 2, 64), jnp.bfloat16)

    def loss(query, key):
        return jnp.sum(attention.attend(query, key, key, None, seen, how))

    lowered = jax.jit(jax.grad(loss)).trace(query, key).lower(lowering_platforms=("cuda",))
    assert "__cudnn$fmha" in lowered.as_text()
    with pytest.raises(ValueError, match=r"cannot cap its logits \(softcap 2.0\)"):
        attention.attend(query, key, key, None, seen, how, softcap=2.0)


@pytest.mark.usefixtures("gpu")
@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("causal", [False, True])
def test_cudnn_lowers_forward_and_backward_for_a_gpu(packed, causal):
    segments = jnp.ones((2, 8), jnp.int32)
    seen = Visibility(query_BL=segments, key_BS=segments, causal=causal, packed=packed)
    how = Implementation(name="cudnn", chunk_tokens=1)

    def loss(x_BLHA, bias_HW):
        return jnp.sum(attention.attend(x_BLHA, x_BLHA, x_BLHA, bias_HW, seen, how))

    inputs = jnp.ones((2, 8, 4, 64), jnp.bfloat16), jnp.ones((4, 15))
    lowered = (
        jax.jit(jax.grad(loss, argnums=(0, 1))).trace(*inputs).lower(lowering_platforms=("cuda",))
    )
    text = lowered.as_text()
    assert "__cudnn$fmhaScaleBiasSoftmax" in text
    assert "__cudnn$fmhaScaleBiasSoftmaxBackward" in text


def test_relative_bias_is_added_to_unscaled_logits():
    # One head of size 4, queries and keys of ones: every logit is 4, not 4 / sqrt(4).
    seen = Visibility(
        query_BL=jnp.ones((1, 1), jnp.int32),
        key_BS=jnp.ones((1, 2), jnp.int32),
        causal=False,
        packed=False,
    )
    query, key = jnp.ones((1, 1, 1, 4)), jnp.array([[1.0] * 4, [0.0] * 4])[None, :, None]
    value = jnp.array([1.0, 0.0])[None, :, None, None]
    bias_HW = jnp.array([[0.0, 1.0]])
    out = attention.attend(
        query, key, value, bias_HW, seen, Implementation(name="xla", chunk_tokens=1)
    )
    np.testing.assert_allclose(
        out[0, 0, 0, 0], math.exp(4) / (math.exp(4) + math.exp(1)), rtol=1e-5
    )
    assert relative_bias.toeplitz(bias_HW, 1).tolist() == [[[0.0, 1.0]]]
