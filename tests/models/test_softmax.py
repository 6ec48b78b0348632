from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ul2tune.models.softmax import softmax_mix
from ul2tune.models.visibility import MASKED

B, L, S, H, A = 2, 5, 7, 4, 8


def plain(logits_BHLS, mask_BLS, value_BKSA):
    """The definition, for JAX to differentiate."""
    logits_BHLS = jnp.where(mask_BLS[:, None], logits_BHLS, MASKED)
    value_BHSA = jnp.repeat(value_BKSA, H // value_BKSA.shape[1], axis=1)
    weights_BHLS = jax.nn.softmax(logits_BHLS, axis=-1).astype(value_BKSA.dtype)
    out_BLHA = jnp.einsum("BHLS,BHSA->BLHA", weights_BHLS, value_BHSA)
    return jnp.where(jnp.any(mask_BLS, axis=-1)[..., None, None], out_BLHA, 0)


def random_case(kv_heads: int, *, scale: float = 1.0, seed: int = 0):
    """Logits, a mask in which query 3 of row 0 sees nothing, values, the output's gradient."""
    keys = jax.random.split(jax.random.key(seed), 4)
    logits = scale * jax.random.normal(keys[0], (B, H, L, S))
    mask = jax.random.bernoulli(keys[1], 0.6, (B, L, S)).at[:, :, 2].set(True)
    mask = mask.at[0, 3].set(False)
    value = jax.random.normal(keys[2], (B, S, kv_heads, A)).swapaxes(1, 2)
    return logits, mask, value, jax.random.normal(keys[3], (B, L, H, A))


def with_gradients(function, logits, mask, value, grad):
    out, pull_back = jax.vjp(lambda x, v: function(x, mask, v), logits, value)
    return out, *pull_back(grad.astype(out.dtype))


@pytest.mark.parametrize("kv_heads", [1, 2, 4])
@pytest.mark.parametrize("scale", [1.0, 8.0])
def test_output_and_gradients_are_those_of_the_definition(kv_heads, scale):
    case = random_case(kv_heads, scale=scale)
    ours, theirs = (with_gradients(f, *case) for f in (softmax_mix, plain))
    for got, expected in zip(ours, theirs, strict=True):
        assert np.abs(expected).max() > 0.1
        np.testing.assert_allclose(got, expected, atol=2e-6)


def test_masked_logits_have_no_gradient_nor_has_a_query_that_sees_nothing():
    logits, mask, value, grad = random_case(H)
    out, logits_grad, value_grad = with_gradients(softmax_mix, logits, mask, value, grad)
    np.testing.assert_array_equal(out[0, 3], 0)
    without = with_gradients(softmax_mix, logits, mask, value, grad.at[0, 3].set(0))[2]
    np.testing.assert_array_equal(value_grad, without)
    hidden = np.broadcast_to(~np.asarray(mask)[:, None], logits.shape)
    np.testing.assert_array_equal(np.asarray(logits_grad)[hidden], 0)


@pytest.mark.parametrize("lowest", [-1e4, -1e32])
def test_no_key_that_is_seen_lies_below_those_that_are_not(lowest):
    logits, mask, value, _ = random_case(H)
    out = softmax_mix(jnp.full_like(logits, lowest), mask, value)
    weights = mask / jnp.maximum(mask.sum(-1, keepdims=True), 1)
    np.testing.assert_allclose(out, jnp.einsum("BLS,BHSA->BLHA", weights, value), atol=1e-6)


def test_what_is_nan_stays_nan():
    logits, mask, value, _ = random_case(H)
    assert np.isnan(softmax_mix(logits * jnp.nan, mask, value)[0, 0]).all()


def bfloat16_errors(seed: int):
    """Relative errors of ours and of the definition, both in bfloat16: of the output, of the
    gradients of logits and values."""
    logits, mask, value, grad = random_case(H, seed=seed)
    value, grad = (x.astype(jnp.bfloat16) for x in (value, grad))
    exact = with_gradients(plain, logits, mask, *(x.astype(jnp.float32) for x in (value, grad)))
    ours, theirs = (with_gradients(f, logits, mask, value, grad) for f in (softmax_mix, plain))
    assert ours[0].dtype == ours[2].dtype == jnp.bfloat16
    assert ours[1].dtype == jnp.float32

    def error(got, expected):
        return np.linalg.norm(np.asarray(got, np.float32) - expected) / np.linalg.norm(expected)

    cases = zip(ours, theirs, exact, strict=True)
    return [(error(got, expected), error(plainly, expected)) for got, plainly, expected in cases]


def test_bfloat16_is_as_exact_as_the_definition_in_bfloat16():
    for ours, plainly in bfloat16_errors(seed=0):
        assert 0 < ours < 1.1 * plainly


def test_bfloat16_is_nearly_as_exact_on_average():
    """One case says little: the logits' gradient is from 0.9 to 1.7 times as far off."""
    ratios = [[ours / plainly for ours, plainly in bfloat16_errors(seed)] for seed in range(12)]
    out, logits_grad, value_grad = np.mean(ratios, axis=0)
    assert 0 < out < 0.9
    # One rounding more, as in FlashAttention: what is subtracted comes from the rounded output.
    assert 0 < logits_grad < 1.3
    # One rounding more: of the output's gradient after the division.
    assert 0 < value_grad < 1.2
