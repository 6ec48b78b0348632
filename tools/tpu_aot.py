"""Compiles training steps for a TPU topology without a TPU, and prints the memory per chip.

    make test-tpu-aot        # installs libtpu into an environment of its own, then runs this

Needs `libtpu` (the extra [tpu]); no TPU, no data, no checkpoint: everything is abstract.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
import time
from collections.abc import Mapping
from typing import Any

os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")  # do not ask a metadata server which TPU this is
os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax
from jax.experimental import topologies

from ul2tune import sharding, tree
from ul2tune.cli import gin_config
from ul2tune.feed.config import FeedConfig
from ul2tune.models import base
from ul2tune.optim import optimizer as optim
from ul2tune.training import state
from ul2tune.training.compiled import CompiledStep
from ul2tune.training.run import train
from ul2tune.training.step import Recipe

GIB = 2**30
# name -> gin files and values. Batches are global; 16 chips.
CASES: Mapping[str, tuple[tuple[str, ...], Mapping[str, str]]] = {
    "demo": (("recipes/demo_pretrain.gin",), {"BATCH_SIZE": "16"}),
    "t5_1_1_xl": (
        (
            "models/t5_1_1_xl.gin",
            "data/ul2_stdlib.gin",
            "optim/adafactor_pretrain.gin",
            "runs/pretrain.gin",
            "mesh/fsdp_tensor.gin",
        ),
        {
            "BATCH_SIZE": "32",
            "T5Config.remat": "'full'",
            "TENSOR_PARALLELISM": "4",
            "TRAIN_STEPS": "1",
            "MODEL_DIR": "unused",
        },
    ),
}


def main() -> int:
    parser = argparse.ArgumentParser(description="Compiles steps for a TPU topology.")
    parser.add_argument("--topology", default="v5e:4x4")
    parser.add_argument("--case", choices=CASES, action="append", help="default: all")
    parser.add_argument(
        "--limit_gib", type=float, default=16.0, help="memory of one chip (v5e: 16)"
    )
    options = parser.parse_args()
    topology = topologies.get_topology_desc(platform="tpu", topology_name=options.topology)
    fits = True
    for name in options.case or CASES:
        result = compile_case(name, topology)
        fits &= result["total_gib"] <= options.limit_gib
        print(json.dumps({"case": name, "topology": options.topology, **result}), flush=True)
    if not fits:
        print(f"More than {options.limit_gib} GiB per chip.", file=sys.stderr)
    return 0 if fits else 1


def compile_case(name: str, topology: Any) -> dict[str, Any]:
    """Compiles one case's step; sizes are per chip."""
    files, values = CASES[name]
    arguments = gin_config.load(files, list(values.items()), roots=[train]).arguments(train)
    model, data, run = arguments["model"], arguments["data"], arguments["run"]
    mesh = sharding.make_mesh(arguments["mesh"], topology.devices)
    abstract = base.abstract_params(model)
    made = optim.make(arguments["optimizer"], abstract, base.param_axes(model))
    with jax.set_mesh(mesh):
        spec = state.specify(model, made, mesh)
        recipe = Recipe(
            model=model,
            loss=arguments["loss"],
            optimizer=made,
            num_microbatches=run.num_microbatches,
            seed=run.seed,
            num_sources=7,
        )
        step = CompiledStep(recipe, spec)
        start = time.monotonic()
        step.compile(spec.state, spec.frozen, abstract_batch(data, mesh))
    state_bytes = state.bytes_per_device((spec.state, spec.frozen))
    temporary_bytes = step.temporary_bytes or 0
    return {
        "chips": math.prod(mesh.shape.values()),
        "mesh": dict(mesh.shape),
        "parameters": tree.num_elements(abstract),
        "rows": data.batch_size,
        "lengths": dict(data.feature_lengths),
        "state_gib": round(state_bytes / GIB, 3),
        "temporary_gib": round(temporary_bytes / GIB, 3),
        "total_gib": round((state_bytes + temporary_bytes) / GIB, 3),
        "compile_secs": round(time.monotonic() - start, 1),
    }


def abstract_batch(data: FeedConfig, mesh: jax.sharding.Mesh) -> dict[str, Any]:
    """The features of a packed encoder-decoder batch."""
    features = {
        "encoder": ("input_tokens", "segment_ids", "positions"),
        "decoder": (
            "input_tokens",
            "target_tokens",
            "loss_weights",
            "segment_ids",
            "positions",
            "source_ids",
        ),
    }
    lengths = {"encoder": data.inputs_length, "decoder": data.targets_length}
    return {
        f"{side}_{name}": jax.ShapeDtypeStruct(
            (data.batch_size, lengths[side]), "int32", sharding=sharding.batch_sharding(mesh)
        )
        for side, names in features.items()
        for name in names
    }


if __name__ == "__main__":
    sys.exit(main())
