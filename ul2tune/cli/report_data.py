"""What the demo's stages left on disk, gathered for the report."""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

TRAINING = {"pretrain": "UL2 pretraining", "ul2r": "continued with UL2R", "tune": "tuned"}
GROUPS = {"supervised": "trained task types, held-out examples", "held_out": "held-out task types"}
METRICS = ("exact_match", "token_f1", "rouge_l", "rank_accuracy_sum", "rank_accuracy_mean")


@dataclass(frozen=True, kw_only=True)
class TrainingStage:
    """One training run.

    Attributes:
      title: for people.
      metrics: the lines of metrics.jsonl.
      timing: the lines of timing.jsonl.
    """

    title: str
    metrics: Sequence[Mapping[str, float]]
    timing: Sequence[Mapping[str, float]]

    def curve(self, name: str) -> tuple[list[float], list[float]]:
        """Steps and values of one metric, where it was logged."""
        lines = [line for line in self.metrics if name in line]
        return [line["step"] for line in lines], [line[name] for line in lines]

    def sources(self) -> list[str]:
        """Names of the tasks or denoisers that have a loss of their own."""
        names = {name for line in self.metrics for name in line if name.startswith("loss/")}
        return sorted(name.removeprefix("loss/") for name in names)

    def mean(self, name: str) -> float | None:
        """The mean of a metric over all lines."""
        values = self.curve(name)[1]
        return statistics.fmean(values) if values else None

    def throughput(self, name: str) -> float | None:
        """The median of a rate of timing.jsonl: the first lines hold the compilation."""
        values = [line[name] for line in self.timing if name in line]
        return statistics.median(values) if values else None


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """One evaluation: the table of metrics.json and the lines of predictions.jsonl."""

    table: Mapping[str, Any]
    predictions: Sequence[Mapping[str, Any]]


@dataclass(frozen=True, kw_only=True)
class DemoData:
    """Everything the report shows.

    Attributes:
      training: training stages by name, in order.
      before, after: evaluations by group of task types.
      secs: wall-clock seconds by stage.
    """

    training: Mapping[str, TrainingStage]
    before: Mapping[str, Evaluation]
    after: Mapping[str, Evaluation]
    secs: Mapping[str, float]


def collect(folder: Path) -> DemoData:
    """Reads the finished stages under `folder`."""
    training = {
        name: TrainingStage(
            title=title,
            metrics=read_lines(folder / name / "metrics.jsonl"),
            timing=read_lines(folder / name / "timing.jsonl"),
        )
        for name, title in TRAINING.items()
    }
    finished = json.loads((folder / "finished.json").read_text(encoding="utf-8"))
    return DemoData(
        training=training,
        before={group: read_evaluation(folder / f"before_{group}") for group in GROUPS},
        after={group: read_evaluation(folder / f"after_{group}") for group in GROUPS},
        secs={name: stage["secs"] for name, stage in finished.items()},
    )


def read_evaluation(folder: Path) -> Evaluation:
    table = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
    return Evaluation(table=table, predictions=read_lines(folder / "predictions.jsonl"))


def read_lines(path: Path) -> list[dict[str, Any]]:
    """JSON lines; none if the file is not there."""
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def comparison(data: DemoData, group: str) -> list[tuple[str, float, float]]:
    """`(metric, before, after)` of a group of task types, in percent."""
    before, after = data.before[group].table["overall"], data.after[group].table["overall"]
    return [
        (name, before[name], after[name]) for name in METRICS if name in before and name in after
    ]


def describe(data: DemoData) -> str:
    """The numbers in a few lines of text."""
    lines = ["training                 steps   loss first -> last   tokens/s   real positions"]
    for stage in data.training.values():
        steps, losses = stage.curve("loss")
        if not losses:
            continue
        rate = stage.throughput("tokens_per_sec") or 0.0
        fills = [stage.mean(f"{side}_fill") for side in ("encoder", "decoder")]
        fill = " / ".join("–" if value is None else f"{value:.0%}" for value in fills)
        lines.append(
            f"{stage.title:<22} {int(steps[-1]):>7,}   {losses[0]:8.3f} -> {losses[-1]:6.3f} "
            f"{rate:>10,.0f}   {fill}"
        )
    for group, title in GROUPS.items():
        lines.append(f"{title}, percent:")
        for name, before, after in comparison(data, group):
            lines.append(f"  {name:<20} {before:6.1f} before tuning   {after:6.1f} after")
    return "\n".join(lines)
