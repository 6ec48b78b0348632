"""What a product's operands are rounded to on accelerators, read from the traced programs."""

from __future__ import annotations

import dataclasses
import functools

import jax
import jax.numpy as jnp
import pytest

from tests.training import tiny
from ul2tune.models import base
from ul2tune.training import step


def products(jaxpr) -> list:
    """All products in a jaxpr and the jaxprs inside it."""
    found = []
    for eqn in jaxpr.eqns:
        if eqn.primitive.name == "dot_general":
            found.append(eqn)
        is_inner = lambda x: hasattr(x, "eqns") or hasattr(x, "jaxpr")  # noqa: E731
        for value in jax.tree.leaves(list(eqn.params.values()), is_leaf=is_inner):
            inner = getattr(value, "jaxpr", value)
            if hasattr(inner, "eqns"):
                found += products(inner)
    return found


def traced(model, program: str):
    step_config = tiny.step_config(model=model)
    params = base.abstract_params(model)
    batch = tiny.batch()
    if program == "eval":
        return jax.make_jaxpr(functools.partial(step.eval_step, config=step_config))(params, batch)
    state = {
        "step": jax.ShapeDtypeStruct((), jnp.int32),
        "params": params,
        "opt_state": jax.eval_shape(step_config.optimizer.tx.init, params),
    }
    train_step = functools.partial(step.train_step, config=step_config)
    return jax.make_jaxpr(train_step)(state, {}, batch)


@pytest.mark.parametrize("attention", ["xla", "chunked"])
@pytest.mark.parametrize("program", ["eval", "train"])
def test_float32_is_never_rounded(program, attention):
    model = dataclasses.replace(tiny.MODEL, dtype="float32", attention=attention)
    eqns = products(traced(model, program).jaxpr)
    assert len(eqns) > 15
    highest = (jax.lax.Precision.HIGHEST, jax.lax.Precision.HIGHEST)
    assert {eqn.params["precision"] for eqn in eqns} == {highest}


@pytest.mark.parametrize("attention", ["xla", "chunked"])
def test_bfloat16_multiplies_bfloat16_and_keeps_the_platforms_speed(attention):
    """Not a single operand is widened; only the relative bias is of float32, and exact."""
    model = dataclasses.replace(tiny.MODEL, dtype="bfloat16", attention=attention)
    eqns = products(traced(model, "train").jaxpr)
    assert len(eqns) > 15
    for eqn in eqns:
        dtypes = {str(variable.aval.dtype) for variable in eqn.invars}
        assert (dtypes == {"bfloat16"}) == (eqn.params["precision"] is None), eqn
