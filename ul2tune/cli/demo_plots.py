"""The curves and bars of the demo's report."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib

matplotlib.use("Agg")  # no display needed; must come before pyplot
import matplotlib.pyplot as plt

from ul2tune.cli import report_data
from ul2tune.cli.report_data import GROUPS, DemoData, TrainingStage

_BEFORE, _AFTER, _CONSTANT, _FAINT = "#b8c4d0", "#3b6ea5", "#d1495b", "#c9d6e3"


def plot_losses(training: Mapping[str, TrainingStage], path: Path) -> Path:
    """Training loss (line) and validation loss (dots) of every stage."""
    figure, axes = plt.subplots(1, len(training), figsize=(4.2 * len(training), 3.4), squeeze=False)
    for axis, stage in zip(axes[0], training.values()):
        axis.plot(*stage.curve("loss"), label="training", color=_AFTER)
        steps, values = stage.curve("validation/loss")
        if steps:
            axis.plot(steps, values, "o", label="validation", color=_CONSTANT)
        axis.set(title=stage.title, xlabel="step", ylabel="loss (nats per token)")
        axis.legend()
    return _save(figure, path)


def plot_sources(stage: TrainingStage, path: Path) -> Path:
    """Training loss of every denoiser or task in a panel of its own, smoothed, on one scale."""
    names = stage.sources()
    columns = min(5, len(names))
    rows = math.ceil(len(names) / columns)
    size = (2.4 * columns + 0.6, 1.9 * rows + 0.6)
    figure, axes = plt.subplots(
        rows, columns, figsize=size, squeeze=False, sharex=True, sharey=True
    )
    for axis in axes.flat[len(names) :]:
        axis.axis("off")
    for axis, name in zip(axes.flat, names):
        steps, values = stage.curve(f"loss/{name}")
        axis.plot(steps, values, color=_FAINT, linewidth=1)
        axis.plot(steps, smooth(values), color=_AFTER, linewidth=1.6)
        axis.set_title(name.rpartition("/")[2], fontsize=9)
        axis.tick_params(labelsize=8)
    figure.suptitle(f"{stage.title}: loss by source (nats per token over steps)", fontsize=11)
    return _save(figure, path)


def plot_tasks(data: DemoData, path: Path) -> Path:
    """Exact match of every task before and after tuning, beside the most frequent answer's."""
    groups = {
        group: {
            task: found[0]
            for task in sorted(data.after[group].table["tasks"])
            if (found := _exact(data, group, task))
        }
        for group in GROUPS
    }
    heights = [max(len(rows), 1) for rows in groups.values()]
    figure, axes = plt.subplots(
        len(groups), 1, figsize=(9, 0.36 * sum(heights) + 1.8), sharex=True,
        height_ratios=heights, squeeze=False,
    )  # fmt: skip
    for axis, (group, rows) in zip(axes[:, 0], groups.items()):
        places = list(range(len(rows)))[::-1]
        found = list(rows.values())
        axis.barh([y - 0.2 for y in places], [r.after for r in found], 0.4, color=_AFTER)
        axis.barh([y + 0.2 for y in places], [r.before for r in found], 0.4, color=_BEFORE)
        axis.plot([r.constant for r in found], places, "|", color=_CONSTANT, ms=16, mew=2.5)
        labels = [f"{task.removeprefix('stdlib_')} (n {rows[task].num_examples})" for task in rows]
        axis.set_yticks(places, labels, fontsize=9)
        axis.set_title(GROUPS[group], fontsize=10, loc="left")
        axis.set_xlim(0, 100)
        axis.spines[["top", "right"]].set_visible(False)
    axes[-1, 0].set_xlabel("exact match, percent", loc="left")
    handles = [
        plt.Rectangle((0, 0), 1, 1, color=_BEFORE, label="before tuning"),
        plt.Rectangle((0, 0), 1, 1, color=_AFTER, label="after tuning"),
        plt.Line2D([], [], color=_CONSTANT, marker="|", linestyle="", ms=12, mew=2.5,
                   label="most frequent answer"),
    ]  # fmt: skip
    figure.legend(handles=handles, ncols=3, loc="lower right", fontsize=9, frameon=False)
    return _save(figure, path)


def smooth(values: Sequence[float], weight: float = 0.6) -> list[float]:
    """The exponential moving average, without a bias to its start."""
    smoothed, average = [], 0.0
    for count, value in enumerate(values, start=1):
        average = weight * average + (1 - weight) * value
        smoothed.append(average / (1 - weight**count))
    return smoothed


def _exact(data: DemoData, group: str, task: str) -> list[report_data.Comparison]:
    found = report_data.comparison(data, group, task)
    return [row for row in found if row.metric == "exact_match"]


def _save(figure, path: Path) -> Path:
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    plt.close(figure)
    return path
