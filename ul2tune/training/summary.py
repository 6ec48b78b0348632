"""The table at the start of a run: what trains, on what, with how much."""

from __future__ import annotations

from dataclasses import dataclass

import jax
from jax.sharding import Mesh

from ul2tune import tree
from ul2tune.feed.config import FeedConfig
from ul2tune.optim.optimizer import Optimizer
from ul2tune.training.compiled import CompiledStep
from ul2tune.training.config import RunConfig
from ul2tune.training.progress import compact, table
from ul2tune.training.state import StateSpec, bytes_per_device


@dataclass(frozen=True, kw_only=True)
class Overview:
    """What the table is made of."""

    spec: StateSpec
    optimizer: Optimizer
    mesh: Mesh
    data: FeedConfig
    run: RunConfig
    steps: tuple[int, int]
    origin: str
    source_names: tuple[str, ...]


def text(overview: Overview, step: CompiledStep) -> str:
    """The table, several lines."""
    spec, data, mesh = overview.spec, overview.data, overview.mesh
    device = jax.devices()[0]
    axes = " x ".join(f"{name} {size}" for name, size in mesh.shape.items())
    trainable, frozen = (tree.num_elements(x) for x in (spec.state["params"], spec.frozen))
    state_bytes = bytes_per_device((spec.state, spec.frozen))
    memory = f"state {compact(state_bytes)}B"
    if step.temporary_bytes is not None:
        memory += f" + step {compact(step.temporary_bytes)}B"
    tokens = data.batch_size * sum(data.row_lengths)
    lengths = "+".join(str(length) for length in data.row_lengths if length)
    parts = overview.run.num_microbatches
    rows = [
        ("mesh", f"{axes}: {mesh.size} {device.platform} devices ({device.device_kind})"),
        ("processes", str(jax.process_count())),
        ("parameters", f"{trainable:,} trainable, {frozen:,} frozen"),
        *(
            (
                "  group",
                f"{row.pattern}: {row.num_parameters:,} parameters, {row.algorithm}"
                + (f", rate x {row.lr_multiplier:g}" if row.lr_multiplier is not None else "")
                + (f", {row.num_decayed:,} decay" if row.num_decayed else ""),
            )
            for row in overview.optimizer.rows
        ),
        ("per device", memory),
        (
            "batch",
            f"{data.batch_size} rows of {lengths} = {tokens:,} tokens per step"
            + (f", in {parts} microbatches" if parts > 1 else ""),
        ),
        ("data", f"{data.mixture} ({data.split}), {len(overview.source_names)} sources"),
        ("starts from", overview.origin),
        ("steps", "{} -> {}".format(*overview.steps)),
        ("compiled in", f"{step.compile_secs:.1f} s"),
        ("writes to", overview.run.model_dir),
    ]
    return table(rows)
