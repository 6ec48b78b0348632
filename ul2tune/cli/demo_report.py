"""The demo's one-page report: HTML, with curves as PNG files beside it."""

from __future__ import annotations

import html
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import matplotlib

matplotlib.use("Agg")  # no display needed; must come before pyplot
import matplotlib.pyplot as plt

from ul2tune.cli import report_data
from ul2tune.cli.report_data import GROUPS, DemoData, TrainingStage

SAMPLES_PER_GROUP = 8
_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem; }
img { max-width: 100%; } table { border-collapse: collapse; margin: 1rem 0; }
td, th { border: 1px solid #ccc; padding: .25rem .6rem; text-align: left; vertical-align: top; }
td.number { text-align: right; font-variant-numeric: tabular-nums; }
pre { white-space: pre-wrap; margin: 0; font-size: 13px; }
"""


def write(data: DemoData, folder: Path) -> Path:
    """Writes report.html and its images into `folder`; returns the page's path."""
    images = [plot_losses(data.training, folder / "loss.png")]
    for name, stage in data.training.items():
        if len(stage.sources()) > 1:
            images.append(plot_sources(stage, folder / f"loss_{name}_by_source.png"))
    images.append(plot_metrics(data, folder / "metrics.png"))
    sections = [
        "<h1>ul2tune demo</h1>",
        "<p>From raw text to a tuned model: one program, one checkpoint after another.</p>",
        f"<p>{sum(data.secs.values()):.0f} seconds in all.</p>",
        "<h2>Before and after instruction tuning</h2>",
        *(section for group in GROUPS for section in metric_tables(data, group)),
        "<h2>Training</h2>",
        training_table(data),
        *(f'<p><img src="{image.name}" alt="{image.stem}"></p>' for image in images),
        "<h2>Samples</h2>",
        *(section for group in GROUPS for section in samples(data, group)),
    ]
    path = folder / "report.html"
    path.write_text(
        '<!doctype html><html lang="en"><meta charset="utf-8"><title>ul2tune demo</title>'
        f"<style>{_STYLE}</style>\n" + "\n".join(sections) + "\n</html>\n",
        encoding="utf-8",
    )
    return path


def plot_losses(training: Mapping[str, TrainingStage], path: Path) -> Path:
    """Training loss (line) and validation loss (dots) of every stage."""
    figure, axes = plt.subplots(1, len(training), figsize=(4.2 * len(training), 3.4), squeeze=False)
    for axis, stage in zip(axes[0], training.values()):
        axis.plot(*stage.curve("loss"), label="training")
        steps, values = stage.curve("validation/loss")
        if steps:
            axis.plot(steps, values, "o", label="validation")
        axis.set(title=stage.title, xlabel="step", ylabel="loss (nats per token)")
        axis.legend()
    return _save(figure, path)


def plot_sources(stage: TrainingStage, path: Path) -> Path:
    """Training loss by denoiser or task."""
    figure, axis = plt.subplots(figsize=(7.5, 3.8))
    for name in stage.sources():
        axis.plot(*stage.curve(f"loss/{name}"), label=name.rpartition("/")[2], linewidth=1)
    axis.set(title=f"{stage.title}, by source", xlabel="step", ylabel="loss (nats per token)")
    axis.legend(fontsize=8, ncols=2)
    return _save(figure, path)


def plot_metrics(data: DemoData, path: Path) -> Path:
    """Metrics before and after tuning as paired bars."""
    figure, axes = plt.subplots(1, len(GROUPS), figsize=(10, 3.4), sharey=True)
    for axis, (group, title) in zip(axes, GROUPS.items()):
        rows = report_data.comparison(data, group)
        for offset, column, label in ((-0.2, 1, "before"), (0.2, 2, "after")):
            places = [i + offset for i in range(len(rows))]
            axis.bar(places, [row[column] for row in rows], width=0.4, label=f"{label} tuning")
        axis.set_xticks(range(len(rows)), [row[0].replace("_", "\n") for row in rows], fontsize=8)
        axis.set(title=title, ylabel="percent")
        axis.legend()
    return _save(figure, path)


def _save(figure, path: Path) -> Path:
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    plt.close(figure)
    return path


def training_table(data: DemoData) -> str:
    rows = []
    for name, stage in data.training.items():
        steps, losses = stage.curve("loss")
        rows.append(
            (
                stage.title,
                f"{int(steps[-1]):,}" if steps else "–",
                f"{losses[0]:.3f} → {losses[-1]:.3f}" if losses else "–",
                _number(stage.throughput("tokens_per_sec"), "{:,.0f}"),
                _number(stage.throughput("nonpadding_tokens_per_sec"), "{:,.0f}"),
                _number(stage.mean("encoder_fill"), "{:.1%}"),
                _number(stage.mean("decoder_fill"), "{:.1%}"),
                _number(data.secs.get(name), "{:.0f}"),
            )
        )
    head = (
        ("stage", "last step", "loss", "tokens/s", "real tokens/s")
        + ("encoder fill", "decoder fill", "seconds with start and compilation")
    )  # fmt: skip
    return table(head, rows)


def metric_tables(data: DemoData, group: str) -> Iterable[str]:
    """Overall, then task by task."""
    yield f"<h3>{html.escape(GROUPS[group][:1].upper() + GROUPS[group][1:])}</h3>"
    head = ("percent", "before", "after")
    overall = [(n, f"{b:.1f}", f"{a:.1f}") for n, b, a in report_data.comparison(data, group)]
    yield table(head, overall)
    before, after = data.before[group].table["tasks"], data.after[group].table["tasks"]
    rows = [
        (task, f"{before[task]['rouge_l']:.1f}", f"{after[task]['rouge_l']:.1f}")
        for task in sorted(before)
        if task in after and "rouge_l" in after[task]
    ]
    if rows:
        yield table(("ROUGE-L by task", "before", "after"), rows)


def samples(data: DemoData, group: str) -> Iterable[str]:
    """The first examples of every task in turn, with both models' answers."""
    tuned = {(line["task"], line["id"]): line for line in data.after[group].predictions}
    by_task: dict[str, list] = {}
    for line in data.before[group].predictions:
        by_task.setdefault(line["task"], []).append(line)
    rows = []
    for number in range(SAMPLES_PER_GROUP):
        for lines in by_task.values():
            if number < len(lines) and len(rows) < SAMPLES_PER_GROUP:
                line = lines[number]
                answer = tuned.get((line["task"], line["id"]), {}).get("prediction", "")
                wanted = " | ".join(line["references"])
                rows.append((line["prompt"], wanted, line["prediction"], answer))
    yield f"<h3>{html.escape(GROUPS[group])}</h3>"
    yield table(("prompt", "reference", "before tuning", "after tuning"), rows, preformatted=True)


def table(head: Sequence[str], rows: Iterable[Sequence[str]], *, preformatted: bool = False) -> str:
    """An HTML table; every cell is escaped."""
    wrap = "<pre>{}</pre>" if preformatted else "{}"
    lines = ["<tr>" + "".join(f"<th>{html.escape(cell)}</th>" for cell in head) + "</tr>"]
    for row in rows:
        cells = [wrap.format(html.escape(cell)) for cell in row]
        css = "" if preformatted else ' class="number"'
        lines.append(
            f"<tr><td>{cells[0]}</td>" + "".join(f"<td{css}>{c}</td>" for c in cells[1:]) + "</tr>"
        )
    return "<table>" + "\n".join(lines) + "</table>"


def _number(value: float | None, form: str) -> str:
    return "–" if value is None else form.format(value)
