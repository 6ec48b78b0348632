"""Compiles training steps on the meshes of gin/mesh, for what XLA says on stderr."""

from __future__ import annotations

import gc
from typing import Any

import jax
import numpy as np

from tests.models import decoder_examples, examples, t5gemma_examples
from ul2tune import sharding
from ul2tune.models import base
from ul2tune.optim import optimizer as optimizer_lib
from ul2tune.optim.optimizer import OptimizerConfig
from ul2tune.sharding import MeshConfig
from ul2tune.training import state as state_lib
from ul2tune.training.compiled import CompiledStep
from ul2tune.training.loss import LossConfig
from ul2tune.training.step import StepConfig

MESHES = {
    "fsdp": MeshConfig(),
    "tensor": MeshConfig(fsdp=1, tensor=4),
    "fsdp_tensor": MeshConfig(tensor=2),
    "data_fsdp_tensor": MeshConfig(data=2, tensor=2),
}
MODELS = {
    "t5": (examples.config(num_heads=4), examples.packed_batch),
    "t5gemma": (t5gemma_examples.first(), examples.packed_batch),
    "decoder": (decoder_examples.opt(embedding_dim=None), decoder_examples.packed_batch),
}
# Every mesh for one family, the one with most axes for every family.
CASES = (*(("t5", name) for name in MESHES), *((f, "data_fsdp_tensor") for f in list(MODELS)[1:]))


def compile_step(model: Any, features: dict[str, np.ndarray], config: MeshConfig) -> None:
    # Four heads: the last preset has no use for more devices.
    mesh = sharding.make_mesh(config, jax.devices()[: None if config.fsdp < 0 else config.tensor])
    optimizer = optimizer_lib.make(
        OptimizerConfig(), base.abstract_params(model), base.param_axes(model)
    )
    spec = state_lib.specify(model, optimizer, mesh)
    batch = {
        name: jax.ShapeDtypeStruct(
            (8, *x.shape[1:]), x.dtype, sharding=sharding.batch_sharding(mesh)
        )
        for name, x in features.items()
    }
    step_config = StepConfig(model=model, loss=LossConfig(), optimizer=optimizer)
    with jax.set_mesh(mesh):
        CompiledStep(step_config, spec).compile(spec.state, spec.frozen, batch)


def main() -> None:
    jax.config.update("jax_num_cpu_devices", 8)
    jax.config.update("jax_enable_compilation_cache", False)  # what is cached says nothing
    for family, name in CASES:
        print(f"MESH {family} {name}", flush=True)
        model, batch = MODELS[family]
        compile_step(model, batch(), MESHES[name])


if __name__ == "__main__":
    gc.set_threshold(100_000, 50, 100)  # as in tests/conftest.py
    main()
