"""What the demo's stages left on disk, gathered for the report."""

from __future__ import annotations

import json
import math
import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ul2tune.checkpoints import layout
from ul2tune.instructions import reading
from ul2tune.metrics import registry
from ul2tune.metrics.choices import is_correct_choice

TRAINING = {"pretrain": "UL2 pretraining", "ul2r": "continued with UL2R", "tune": "tuned"}
GROUPS = {"supervised": "trained task types, held-out examples", "held_out": "held-out task types"}
METRICS = ("exact_match", "token_f1", "rouge_l", "rank_accuracy_sum", "rank_accuracy_mean")
# For people.
METRIC_NAMES = {
    "exact_match": "exact match",
    "token_f1": "token F1",
    "rouge_l": "ROUGE-L",
    "rank_accuracy_sum": "rank accuracy (sum)",
    "rank_accuracy_mean": "rank accuracy (mean)",
}


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
class Comparison:
    """One metric of the same examples before and after tuning, in percent.

    Attributes:
      metric: its name.
      num_examples: that have it.
      constant: of always giving each task's most frequent answer (see :func:`constant_scores`).
      before, after: the model's.
    """

    metric: str
    num_examples: int
    constant: float
    before: float
    after: float


@dataclass(frozen=True, kw_only=True)
class DemoData:
    """Everything the report shows.

    Attributes:
      training: training stages by name, in order.
      before, after: evaluations by group of task types.
      secs: wall-clock seconds by stage.
      num_parameters: of the model; 0 = unknown.
    """

    training: Mapping[str, TrainingStage]
    before: Mapping[str, Evaluation]
    after: Mapping[str, Evaluation]
    secs: Mapping[str, float]
    num_parameters: int = 0


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
        num_parameters=count_parameters(folder / "tune" / layout.SUBDIRECTORY),
    )


def count_parameters(checkpoints: Path) -> int:
    """Parameters of the newest checkpoint; 0 if there is none."""
    steps = layout.steps(checkpoints)
    if not steps:
        return 0
    leaves = layout.read_meta(checkpoints / str(steps[-1]))["leaves"]
    return sum(math.prod(leaf[0]) for path, leaf in leaves.items() if path.startswith("params/"))


def read_evaluation(folder: Path) -> Evaluation:
    table = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
    return Evaluation(table=table, predictions=read_lines(folder / "predictions.jsonl"))


def read_lines(path: Path) -> list[dict[str, Any]]:
    """JSON lines; none if the file is not there."""
    return [row for _, row in reading.read_json_lines(path)] if path.exists() else []


def constant_scores(lines: Sequence[Mapping[str, Any]]) -> dict[str, list[float]]:
    """What always giving each task's most frequent answer scores, from 0 to 1 by metric.

    The answer is the most frequent first reference among the evaluated examples themselves: no
    model that reads nothing but the task can know a better one for exact match.
    """
    by_task: dict[str, Counter[str]] = {}
    for line in lines:
        by_task.setdefault(line["task"], Counter())[line["references"][0]] += 1
    scores: dict[str, list[float]] = {}
    for line in lines:
        answer, references = by_task[line["task"]].most_common(1)[0][0], line["references"]
        for name in METRICS:
            if name in registry.SCORES:
                scores.setdefault(name, []).append(registry.SCORES[name](answer, references))
            elif line.get("answer_choices"):
                right = is_correct_choice(answer, references)
                scores.setdefault(name, []).append(float(right))
    return scores


def comparison(data: DemoData, group: str, task: str = "") -> list[Comparison]:
    """The metrics of a group of task types, or of one task of it."""
    before, after = data.before[group].table, data.after[group].table
    old, new = ((table["tasks"][task] if task else table["overall"]) for table in (before, after))
    lines = [line for line in data.after[group].predictions if not task or line["task"] == task]
    constants = constant_scores(lines)
    return [
        Comparison(
            metric=name,
            num_examples=len(constants[name]),
            constant=100.0 * statistics.fmean(constants[name]),
            before=old[name],
            after=new[name],
        )
        for name in METRICS
        if name in old and name in new and name in constants
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
        lines.append(f"\n{f'{title}, percent:':<42} n  before   after   most frequent answer")
        for row in comparison(data, group):
            lines.append(
                f"  {METRIC_NAMES[row.metric]:<34} {row.num_examples:>6}  {row.before:6.1f}  "
                f"{row.after:6.1f}   {row.constant:6.1f}"
            )
    return "\n".join(lines)
