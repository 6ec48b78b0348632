"""Compiles training steps for a TPU topology without a TPU, and prints the memory per chip.

`--collectives MIB` also prints what chips exchange.

    make test-tpu-aot        # installs libtpu into an environment of its own, then runs this

Needs `libtpu` (the extra [tpu]); no TPU, no data, no checkpoint: everything is abstract.
"""

from __future__ import annotations

import argparse
import collections
import json
import math
import os
import re
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
from ul2tune.training.step import StepConfig

GIB = 2**30
COLLECTIVES = "all-gather|all-reduce|reduce-scatter|all-to-all|collective-permute"
# By the digits of a type's name, but for the one that has none: "bf16", "f32", "s8".
PRED_BITS = 8
SMALL = (
    "models/t5_1_1_base.gin",
    "data/ul2_stdlib.gin",
    "optim/adafactor_pretrain.gin",
    "runs/pretrain.gin",
)
SMALL_VALUES = {
    "BATCH_SIZE": "64",
    "T5Config.num_encoder_layers": "2",
    "T5Config.num_decoder_layers": "2",
    "TRAIN_STEPS": "1",
    "MODEL_DIR": "unused",
}
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
# Base with two layers a stack, on three meshes; only when named.
ON_REQUEST: Mapping[str, tuple[tuple[str, ...], Mapping[str, str]]] = {
    "fsdp": ((*SMALL, "mesh/fsdp.gin"), SMALL_VALUES),
    "data_fsdp": (
        (*SMALL, "mesh/data_fsdp_tensor.gin"),
        {**SMALL_VALUES, "DATA_PARALLELISM": "4", "TENSOR_PARALLELISM": "1"},
    ),
    "fsdp_tensor": (
        (*SMALL, "mesh/fsdp_tensor.gin"),
        {**SMALL_VALUES, "TENSOR_PARALLELISM": "4"},
    ),
}


def main() -> int:
    parser = argparse.ArgumentParser(description="Compiles steps for a TPU topology.")
    parser.add_argument("--topology", default="v5e:4x4")
    parser.add_argument("--slices", type=int, default=1, help="of that topology each")
    parser.add_argument(
        "--case",
        choices=[*CASES, *ON_REQUEST],
        action="append",
        help=f"default: {', '.join(CASES)}",
    )
    parser.add_argument(
        "--limit_gib", type=float, default=16.0, help="memory of one chip (v5e: 16)"
    )
    parser.add_argument(
        "--collectives", type=float, metavar="MIB", help="list what is exchanged in larger pieces"
    )
    options = parser.parse_args()
    topology = topologies.get_topology_desc(
        platform="tpu", topology_name=options.topology, num_slices=options.slices
    )
    fits = True
    for name in options.case or CASES:
        result, hlo = compile_case(name, topology)
        fits &= result["total_gib"] <= options.limit_gib
        where = {"topology": options.topology, "slices": options.slices}
        print(json.dumps({"case": name, **where, **result}), flush=True)
        if options.collectives is not None:
            for line in collectives(hlo, options.collectives * 2**20):
                print(line, flush=True)
    if not fits:
        print(f"More than {options.limit_gib} GiB per chip.", file=sys.stderr)
    return 0 if fits else 1


def collectives(hlo: str, least_bytes: float) -> list[str]:
    """Size of the result on one chip, number, kind, shape and origin, the largest first.

    Only what a step does once and by itself: no loops over layers or chunks, and none of what
    libtpu fuses with something else (gathers of kernels, most reductions of their gradients).
    """
    found: collections.Counter[tuple[int, str, str]] = collections.Counter()
    inside_entry = False
    for line in hlo.splitlines():
        if line.endswith("{"):
            inside_entry = line.startswith("ENTRY")
        match = re.search(rf"= (.*?) ({COLLECTIVES})(-start)?\(", line)
        if not inside_entry or not match:
            continue
        name = re.search(r'op_name="([^"]*)"', line)
        arrays = re.findall(r"([a-z]+)(\d*)\w*\[([\d,]+)\]", match[1])
        if match[3] and match[2] in ("all-gather", "collective-permute"):
            arrays = arrays[len(arrays) // 2 :]  # the operands come first
        for kind, digits, sizes in arrays:
            dtype = kind + digits
            num_bytes = int(digits or PRED_BITS) * math.prod(map(int, sizes.split(","))) // 8
            if num_bytes >= least_bytes:
                origin = name[1].rpartition("/")[2] if name else "combined"
                found[num_bytes, f"{match[2]} {dtype}[{sizes}]", origin] += 1
    ordered = sorted(found.items(), reverse=True)
    return [f"{b / 2**20:8.1f} MiB x {n}  {what}  {origin}" for (b, what, origin), n in ordered]


def compile_case(name: str, topology: Any) -> tuple[dict[str, Any], str]:
    """Compiles one case's step; returns its sizes per chip, and the optimised HLO."""
    files, values = {**CASES, **ON_REQUEST}[name]
    arguments = gin_config.load(files, list(values.items()), roots=[train]).arguments(train)
    model, data, run = arguments["model"], arguments["data"], arguments["run"]
    mesh = sharding.make_mesh(arguments["mesh"], topology.devices)
    abstract = base.abstract_params(model)
    made = optim.make(arguments["optimizer"], abstract, base.param_axes(model))
    with jax.set_mesh(mesh):
        spec = state.specify(model, made, mesh)
        step_config = StepConfig(
            model=model,
            loss=arguments["loss"],
            optimizer=made,
            num_microbatches=run.num_microbatches,
            seed=run.seed,
            num_sources=7,
        )
        step = CompiledStep(step_config, spec)
        start = time.monotonic()
        step.compile(spec.state, spec.frozen, abstract_batch(data, mesh))
    state_bytes = state.bytes_per_device((spec.state, spec.frozen))
    temporary_bytes = step.temporary_bytes or 0
    sizes = {
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
    return sizes, step.hlo()


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
