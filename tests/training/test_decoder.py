"""Decoder-only models train with the step, the loss and the optimisers of all others."""

from __future__ import annotations

import dataclasses

import jax
import numpy as np
import pytest

from tests.models import decoder_examples as tiny
from tests.models import examples
from ul2tune.models import base
from ul2tune.optim import optimizer as optimizer_lib
from ul2tune.optim.optimizer import OptimizerConfig
from ul2tune.optim.schedules import ScheduleConfig
from ul2tune.training.loss import LossConfig
from ul2tune.training.step import StepConfig, train_step


@pytest.mark.parametrize(("name", "config"), [("adafactor", tiny.opt()), ("adamw", tiny.gemma())])
def test_a_batch_is_learned(name, config):
    config = dataclasses.replace(config, attention="chunked", attention_chunk_tokens=4)
    schedule = ScheduleConfig(name="constant", learning_rate=0.03)
    optimizer = optimizer_lib.make(
        OptimizerConfig(name=name, schedule=schedule),
        base.abstract_params(config),
        base.param_axes(config),
    )
    # The loss in chunks too, smaller than the batch.
    loss = LossConfig(chunk_tokens=8)
    step_config = StepConfig(model=config, loss=loss, optimizer=optimizer, num_microbatches=2)
    step = jax.jit(
        lambda state, batch: train_step(state, {}, batch, step_config),
        compiler_options=examples.QUICK,
    )
    params = examples.params(config)
    state = {"step": np.int32(0), "params": params, "opt_state": optimizer.tx.init(params)}
    losses = []
    for _ in range(30):
        state, metrics = step(state, tiny.packed_batch())
        losses.append(float(metrics["loss"][0] / metrics["loss"][1]))
    assert losses[-1] < 0.5 * losses[0]
