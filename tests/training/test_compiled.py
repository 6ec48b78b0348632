"""Every program of a model is compiled with its model's options."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.decoding import tiny as decoding_tiny
from tests.evaluation.test_predictor import make_predictor
from tests.training import tiny
from ul2tune import sharding
from ul2tune.decoding.sampling import SamplingConfig
from ul2tune.models import base
from ul2tune.sharding import MeshConfig
from ul2tune.training import state as states
from ul2tune.training.compiled import CompiledStep
from ul2tune.training.validation import Validation

ONE = MeshConfig(data=1, fsdp=1, tensor=1)


def train() -> None:
    mesh = sharding.make_mesh(ONE, jax.devices()[:1])
    step_config = tiny.step_config()
    with jax.set_mesh(mesh):
        spec = states.specify(step_config.model, step_config.optimizer, mesh)
        CompiledStep(step_config, spec).compile(spec.state, spec.frozen, tiny.batch())


def validate() -> None:
    mesh, batch, step_config = (
        sharding.make_mesh(ONE, jax.devices()[:1]),
        tiny.batch(),
        tiny.step_config(),
    )
    rows = len(batch["decoder_target_tokens"])
    with jax.set_mesh(mesh):
        params = base.init_params(step_config.model, jax.random.key(0))
        Validation(lambda: [batch], step_config, (), mesh, rows)(params)


def generate() -> None:
    prompt = np.array([5, 6], np.int32)
    make_predictor(decoding_tiny.MODEL, 1).generate(
        [prompt], ["a"], SamplingConfig(max_decode_length=1)
    )


def rank() -> None:
    prompt = np.array([5, 6], np.int32)
    make_predictor(decoding_tiny.MODEL, 1).score([prompt], [prompt])


@pytest.mark.parametrize("program", [train, validate, generate, rank])
def test_options_reach_the_compiler(program, monkeypatch):
    monkeypatch.setattr(base, "compiler_options", lambda config: {"xla_unheard_of": True})
    with pytest.raises(jax.errors.JaxRuntimeError, match="No such compile option: 'xla_unheard_of"):
        program()


def test_float32_on_a_gpu_is_left_to_cublas(monkeypatch):
    wide = dataclasses.replace(tiny.MODEL, dtype="float32")
    narrow = dataclasses.replace(tiny.MODEL, dtype="bfloat16")
    assert base.compiler_options(wide) == {}
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    options = base.compiler_options(wide)
    assert options == {"xla_gpu_enable_triton_gemm": False}
    assert base.compiler_options(narrow) == {}
    monkeypatch.undo()
    assert jax.jit(jnp.sin, compiler_options=options)(0.0) == 0.0  # XLA knows it
