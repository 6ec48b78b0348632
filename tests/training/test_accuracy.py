from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np

from tests import compiling
from ul2tune.training.cross_entropy import cross_entropy
from ul2tune.training.loss import LossConfig


def test_correct_predictions_count_the_first_of_equal_maxima():
    head = jnp.eye(3)
    hidden = jnp.array([[[0.0, 2, 1], [1, 1, 0], [1, 1, 0], [0, 0, 5]]])
    targets = jnp.array([[1, 0, 1, 2]])
    weights = jnp.array([[1.0, 1, 1, 0.5]])
    output = jax.jit(cross_entropy)(hidden, head, targets, weights)
    assert output.correct_BL.tolist() == [[1, 1, 0, 0.5]]


def test_correct_predictions_of_capped_logits_are_those_of_the_logits():
    """Where a compiler optimises, it computes the cap twice and rounds it differently."""
    keys = jax.random.split(jax.random.key(0))
    hidden, head = jax.random.normal(keys[0], (4, 10, 8)), jax.random.normal(keys[1], (24, 8))
    targets = jnp.argmax(jnp.einsum("bld,vd->blv", hidden, head), -1)

    @functools.partial(jax.jit, static_argnums=1, compiler_options=compiling.OPTIMIZED)
    def correct_BL(hidden, chunk_tokens):
        def total(hidden):
            config = LossConfig(chunk_tokens=chunk_tokens)
            output = cross_entropy(hidden, head, targets, None, config, 30.0)
            return jnp.sum(output.loss_BL), output.correct_BL

        return jax.grad(total, has_aux=True)(hidden)[1]

    for chunk_tokens in (16, 1000):
        np.testing.assert_array_equal(correct_BL(hidden, chunk_tokens), 1)
