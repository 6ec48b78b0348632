"""Speed and memory of the training step: the very step of `ul2tune train`, on synthetic batches.

    python tools/bench/step.py --gin_file=models/t5_1_1_base.gin --inputs=512 --targets=114 \
        --batch=128 --gin.T5Config.attention="'cudnn'"
    python tools/bench/step.py --gin_file=tools/bench/t5_1_1_d256.gin --inputs=256 --targets=64 \
        --batch=8
    python tools/bench/step.py --gin_file=models/decoder_tiny.gin --gin.LAYOUT="'prefix_lm'"

Prints one JSON line. Any gin file or value of a training run may be given (optimiser, mesh,
Z_LOSS, NUM_MICROBATCHES, …); Adafactor as in T5's pretraining is the default.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import resource
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from ul2tune import sharding, tree
from ul2tune.cli import allocator, gin_config
from ul2tune.models import base, flops
from ul2tune.optim import optimizer as optim
from ul2tune.training import state as states
from ul2tune.training.compiled import CompiledStep
from ul2tune.training.run import train
from ul2tune.training.step import StepConfig

FILES = ("data/ul2_stdlib.gin", "optim/adafactor_pretrain.gin", "runs/pretrain.gin")
VALUES = (("MODEL_DIR", "'unused'"), ("TRAIN_STEPS", "1"))


@dataclass(frozen=True, kw_only=True)
class Shape:
    """What a batch looks like.

    Attributes:
      batch: rows.
      inputs: encoder length; of a decoder-only model's rows the part that is the prefix.
      targets: decoder length; the rest of such rows.
      fill: fraction of positions that are not padding.
      segments: packed segments per row; 0 leaves segment ids out.
    """

    batch: int
    inputs: int
    targets: int
    fill: float = 1.0
    segments: int = 0


class Bench:
    """A compiled training step with its state, ready to run."""

    def __init__(self, arguments: Mapping[str, Any], shape: Shape):
        self.model, self.shape = arguments["model"], shape
        self.mesh = sharding.make_mesh(arguments["mesh"])
        abstract, run = base.abstract_params(self.model), arguments["run"]
        optimizer = optim.make(arguments["optimizer"], abstract, base.param_axes(self.model))
        step_config = StepConfig(
            model=self.model,
            loss=arguments["loss"],
            optimizer=optimizer,
            num_microbatches=run.num_microbatches,
            seed=run.seed,
        )
        with jax.set_mesh(self.mesh):
            spec = states.specify(self.model, optimizer, self.mesh)
            made = states.create(spec, self.model, optimizer, run.seed, None, 0)
            self.state, self.frozen = made
            features = synthetic(shape, self.model.vocab_size, arguments["data"].layout)
            self.batch = sharding.to_global(features, self.mesh, shape.batch)
            self.step = CompiledStep(step_config, spec)
            self.step.compile(self.state, self.frozen, self.batch)
        self.state_bytes = states.bytes_per_device((spec.state, spec.frozen))

    def run(self) -> tuple[float, float]:
        """One step. Returns wall seconds and CPU seconds of this process."""
        start = time.perf_counter(), time.process_time()
        with jax.set_mesh(self.mesh):
            self.state, metrics = self.step(self.state, self.frozen, self.batch)
        jax.block_until_ready((self.state, metrics))
        return time.perf_counter() - start[0], time.process_time() - start[1]

    def report(self, times: Sequence[tuple[float, float]]) -> dict[str, Any]:
        """Everything there is to say about these runs."""
        shape, device = self.shape, jax.devices()[0]
        secs = statistics.median(wall for wall, _ in times)
        tokens = shape.batch * (shape.inputs + shape.targets)
        real = sum(
            int((np.asarray(self.batch[name]) != 0).sum())
            for name in ("encoder_input_tokens", "decoder_target_tokens")
            if name in self.batch
        )
        per_row = flops.train_flops_per_row(self.model, shape.inputs, shape.targets)
        peak = flops.peak_flops(device)
        mfu = None if peak is None else per_row * shape.batch / secs / peak / jax.device_count()
        memory = (device.memory_stats() or {}).get("peak_bytes_in_use")
        return {
            "device": f"{jax.device_count()} x {device.device_kind}",
            "jax": jax.__version__,
            "mesh": dict(self.mesh.shape),
            "model": dataclasses.asdict(self.model),
            "parameters": tree.num_elements(base.abstract_params(self.model)),
            "shape": vars(shape),
            "compile_secs": round(self.step.compile_secs, 2),
            "step_ms": round(1e3 * secs, 2),
            "fastest_step_ms": round(1e3 * min(wall for wall, _ in times), 2),
            "cpu_ms": round(1e3 * statistics.median(cpu for _, cpu in times), 2),
            "tokens_per_sec": round(tokens / secs),
            "non_padding_tokens_per_sec": round(real / secs),
            "model_flops_per_step": per_row * shape.batch,
            "model_tflops_per_sec": round(per_row * shape.batch / secs / 1e12, 3),
            "mfu": None if mfu is None else round(mfu, 4),
            "state_mb_per_device": round(self.state_bytes / 1e6, 1),
            "temporary_mb_per_device": round((self.step.temporary_bytes or 0) / 1e6, 1),
            "peak_memory_mb": round(
                (memory or 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss) / 1e6, 1
            ),
        }


def synthetic(shape: Shape, vocab_size: int, layout: str) -> dict[str, np.ndarray]:
    """Random tokens; every row has the same number of real ones."""
    rng = np.random.default_rng(0)
    features: dict[str, np.ndarray] = {}
    sides = {"encoder": shape.inputs, "decoder": shape.targets}
    if layout != "encoder_decoder":
        sides = {"decoder": shape.inputs + shape.targets}
    for side, length in sides.items():
        real = max(1, round(shape.fill * length))
        tokens = np.zeros((shape.batch, length), np.int32)
        tokens[:, :real] = rng.integers(2, vocab_size, (shape.batch, real))
        starts = np.zeros(length, bool)
        if shape.segments:
            parts = np.array_split(np.arange(real), shape.segments)
            starts[[part[0] for part in parts]] = True
            ids = np.where(np.arange(length) < real, np.cumsum(starts), 0)
            features[f"{side}_segment_ids"] = np.tile(ids.astype(np.int32), (shape.batch, 1))
        if side == "encoder":
            features["encoder_input_tokens"] = tokens
            continue
        shifted = np.pad(tokens[:, :-1], ((0, 0), (1, 0)))
        features["decoder_target_tokens"] = tokens
        features["decoder_input_tokens"] = np.where(starts, 0, shifted)
        features["decoder_loss_weights"] = (tokens != 0).astype(np.int32)
    if layout == "prefix_lm":
        prefix = np.arange(sides["decoder"]) < shape.inputs
        features["decoder_causal_attention"] = np.tile(prefix.astype(np.int32), (shape.batch, 1))
    return features


def arguments_of(
    files: Sequence[str], values: Sequence[tuple[str, str]], shape: Shape
) -> dict[str, Any]:
    """The arguments of `ul2tune train` under these gin files and values."""
    lengths = {"inputs": shape.inputs, "targets": shape.targets}
    values = [
        *VALUES,
        ("TASK_FEATURE_LENGTHS", repr(lengths)),
        ("BATCH_SIZE", str(shape.batch)),
        *values,
    ]
    return gin_config.load([*FILES, *files], values, roots=[train]).arguments(train)


def parse_values(parser: argparse.ArgumentParser, rest: Sequence[str]) -> list[tuple[str, str]]:
    """``--gin.NAME=value`` -> (NAME, value)."""
    values = []
    for flag in rest:
        name, equals, value = flag.removeprefix("--gin.").partition("=")
        if not flag.startswith("--gin.") or not equals:
            parser.error(f"unknown argument {flag}; gin values are given as --gin.NAME=value")
        values.append((name, value))
    return values


def main() -> None:
    parser = argparse.ArgumentParser(description="Benchmarks the training step.")
    parser.add_argument("--gin_file", action="append", required=True, help="model, optimiser, mesh")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--inputs", type=int, default=512)
    parser.add_argument("--targets", type=int, default=114)
    parser.add_argument("--fill", type=float, default=1.0)
    parser.add_argument("--segments", type=int, default=0)
    parser.add_argument("--steps", type=int, default=20)
    options, rest = parser.parse_known_args()
    values = parse_values(parser, rest)
    names = ("batch", "inputs", "targets", "fill", "segments")
    shape = Shape(**{name: getattr(options, name) for name in names})
    allocator.keep_freed_memory()  # as `ul2tune train` does
    bench = Bench(arguments_of(options.gin_file, values, shape), shape)
    for _ in range(3):
        bench.run()
    print(json.dumps(bench.report([bench.run() for _ in range(options.steps)])), flush=True)


if __name__ == "__main__":
    main()
