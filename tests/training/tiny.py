"""The smallest real things: a T5 of two layers, an optimiser, batches with unequal weights."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import jax
import numpy as np

from tests.feed import prepared
from tests.models import examples
from ul2tune import sharding
from ul2tune.data.ul2 import PRESETS
from ul2tune.feed.config import FeedConfig
from ul2tune.models import base
from ul2tune.models.t5 import T5Config
from ul2tune.optim import optimizer as optimizer_lib
from ul2tune.optim.optimizer import OptimizerConfig
from ul2tune.optim.schedules import ScheduleConfig
from ul2tune.sharding import MeshConfig
from ul2tune.training import state as state_lib
from ul2tune.training.compiled import CompiledStep
from ul2tune.training.config import RunConfig
from ul2tune.training.loss import LossConfig
from ul2tune.training.step import StepConfig
from ul2tune.types import InitFn

MODEL = T5Config(
    vocab_size=64,
    d_model=16,
    d_kv=8,
    d_ff=32,
    num_heads=4,
    num_encoder_layers=1,
    num_decoder_layers=1,
    dropout_rate=0.1,
    dtype="float32",
)
SOURCES = ("text/r", "text/s")
BATCH, INPUTS, TARGETS = 8, 12, 6


def optimizer(*, learning_rate: float = 0.02, **kwargs: Any) -> optimizer_lib.Optimizer:
    schedule = ScheduleConfig(name="constant", learning_rate=learning_rate)
    config = OptimizerConfig(name="adafactor", schedule=schedule, **kwargs)
    return optimizer_lib.make(config, base.abstract_params(MODEL), base.param_axes(MODEL))


def step_config(**kwargs: Any) -> StepConfig:
    values = {"model": MODEL, "loss": LossConfig(), "optimizer": optimizer(), "num_sources": 2}
    return StepConfig(**{**values, **kwargs})


def batch(seed: int = 0, size: int = BATCH) -> dict[str, np.ndarray]:
    """Rows of very unequal numbers of real tokens, so that a mean of means shows."""
    rng = np.random.default_rng(seed)
    inputs = rng.integers(3, 64, (size, INPUTS), dtype=np.int32)
    targets = rng.integers(3, 64, (size, TARGETS), dtype=np.int32)
    lengths = 1 + np.arange(size) % TARGETS
    targets[np.arange(TARGETS) >= lengths[:, None]] = 0
    inputs[np.arange(INPUTS) >= 2 * lengths[:, None]] = 0
    return {
        "encoder_input_tokens": inputs,
        "decoder_input_tokens": np.pad(targets, ((0, 0), (1, 0)))[:, :-1],
        "decoder_target_tokens": targets,
        "decoder_loss_weights": (targets > 0).astype(np.float32),
        "decoder_source_ids": np.where(targets > 0, 1 + np.arange(size)[:, None] % 2, 0).astype(
            np.int32
        ),
    }


def drawn(model: Any) -> InitFn:
    """Initial parameters drawn by NumPy: a program that draws them takes a third as long to compile
    as a step."""

    def init(abstract: Any) -> Any:
        values = jax.device_get(examples.params(model))
        return jax.tree.map(lambda leaf, x: jax.device_put(x, leaf.sharding), abstract, values)

    return init


class Trainer:
    """Spec, state and compiled step on one mesh; `fresh` begins as a run without `init` does."""

    def __init__(self, mesh: MeshConfig, devices: Any = None, fresh: bool = False, **kwargs: Any):
        self.step_config = step_config(**kwargs)
        self.mesh = sharding.make_mesh(mesh, devices)
        ema = self.step_config.ema_decay is not None
        self.spec = state_lib.specify(
            self.step_config.model, self.step_config.optimizer, self.mesh, ema=ema
        )
        with jax.set_mesh(self.mesh):
            model, optimizer = self.step_config.model, self.step_config.optimizer
            init = None if fresh else drawn(model)
            self.state, self.frozen = state_lib.create(self.spec, model, optimizer, 0, init, 0)
        self.step = CompiledStep(self.step_config, self.spec)

    def run(self, values: dict[str, np.ndarray]) -> dict[str, Any]:
        """One step; returns fetched (sum, weight) metrics."""
        with jax.set_mesh(self.mesh):
            rows = len(values["decoder_target_tokens"])
            global_batch = sharding.to_global(values, self.mesh, rows)
            if not self.step.is_compiled:
                self.step.compile(self.state, self.frozen, global_batch)
            self.state, metrics = self.step(self.state, self.frozen, global_batch)
        return jax.device_get(metrics)


def one_device() -> tuple[MeshConfig, Any]:
    return MeshConfig(data=1, fsdp=1, tensor=1), jax.devices()[:1]


SCHEDULE = ScheduleConfig(name="constant", learning_rate=0.02)
RUN_MODEL = dataclasses.replace(MODEL, vocab_size=1280)


def write_data(data_dir: Path) -> None:
    """A mixture of running text with UL2 noise and fixed pairs, in both splits."""
    for split, count in (("train", 60), ("validation", 6)):
        tasks = [
            prepared.Task(
                name="text",
                examples=prepared.documents(count, high=300),
                noise=PRESETS["ul2r"],
            ),
            prepared.Task(name="pairs", examples=prepared.pairs(count)),
        ]
        prepared.write(data_dir, "mix", tasks, rates=[2.0, 1.0], split=split)


def arguments(
    model_dir: Any,
    data_dir: Any,
    *,
    mesh: Any = None,
    data: Any = None,
    optimizer: Any = None,
    **run: Any,
) -> dict[str, Any]:
    """Arguments of `train` for a run of a few seconds."""
    values: dict[str, Any] = {
        "mixture": "mix",
        "data_dir": str(data_dir),
        "feature_lengths": {"inputs": 64, "targets": 48},
        "batch_size": BATCH,
        "window": 4,
        "min_segment_tokens": 16,
        "max_segment_tokens": 48,
    }
    settings: dict[str, Any] = {
        "model_dir": str(model_dir),
        "checkpoint_period_steps": 4,
        "log_period_steps": 3,
        "eval_period_steps": 5,
        "eval_steps": 1,
    }
    if "train_steps_relative" not in run:
        settings["train_steps"] = 6
    return {
        "model": RUN_MODEL,
        "data": FeedConfig(**{**values, **(data or {})}),
        "optimizer": OptimizerConfig(**{"schedule": SCHEDULE, **(optimizer or {})}),
        "mesh": MeshConfig(**(mesh or {})),
        "run": RunConfig(**{**settings, **run}),
        "loss": LossConfig(),
    }
