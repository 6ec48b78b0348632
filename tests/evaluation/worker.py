"""One process that evaluates and infers: ``python -m tests.evaluation.worker JSON``."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import jax

from tests.decoding import tiny
from tests.evaluation import prepared
from ul2tune.decoding.sampling import SamplingConfig
from ul2tune.evaluation.infer import InferConfig, infer
from ul2tune.evaluation.run import EvalConfig, evaluate
from ul2tune.sharding import MeshConfig

MESH = MeshConfig(data=1, fsdp=2, tensor=2)
SAMPLING = SamplingConfig(max_decode_length=5, temperature=0.7, top_k=40, seed=3)


def main(
    folder: str, prompts: str, output: str, *, index: int, count: int, coordinator: str, eval: bool
) -> None:
    """Four devices in all. Data and model are in `folder`; `output` may differ per process."""
    jax.config.update("jax_num_cpu_devices", 4 // count)
    if count > 1:
        jax.distributed.initialize(coordinator, num_processes=count, process_id=index)
    config = EvalConfig(
        inputs_length=64,
        batch_size=4,
        sampling=SAMPLING,
        length_buckets=(64,),
        metrics=("token_f1",),
    )
    model_dir = str(Path(folder) / "model")
    data_dir = str(Path(folder) / "data")
    if eval:
        evaluate(tiny.MODEL, "instructions", data_dir, model_dir, MESH, f"{output}/eval", config)
    infer(
        tiny.MODEL,
        prepared.VOCABULARY,
        model_dir,
        MESH,
        prompts,
        f"{output}/out.jsonl",
        InferConfig(sampling=SAMPLING, inputs_length=64, batch_size=4),
    )


if __name__ == "__main__":
    main(**json.loads(sys.argv[1]))
