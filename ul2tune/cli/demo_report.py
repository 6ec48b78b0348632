"""The demo's one-page report: HTML that holds its curves; they are PNG files beside it too."""

from __future__ import annotations

import base64
import datetime
import html
import importlib.metadata
import os
import platform
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import jax

from ul2tune.cli import demo_plots, demo_stages, report_data
from ul2tune.cli.report_data import GROUPS, METRIC_NAMES, DemoData

_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 66rem; margin: 2rem auto; padding: 0 1rem;
  color: #222; }
h1 { margin-bottom: 0; } h2 { margin-top: 2.5rem; border-bottom: 1px solid #ddd; }
.facts { color: #666; } .key { font-size: 1.15rem; background: #f3f6fa; padding: .7rem 1rem;
  border-left: 4px solid #3b6ea5; }
img { max-width: 100%; } table { border-collapse: collapse; margin: 1rem 0; }
td, th { border: 1px solid #ddd; padding: .25rem .6rem; text-align: left; vertical-align: top; }
th { background: #f7f7f7; } tr.total td { font-weight: 600; }
td.number { text-align: right; font-variant-numeric: tabular-nums; }
td.right { background: #e8f5e6; } pre { white-space: pre-wrap; margin: 0; font-size: 13px; }
"""


def write(data: DemoData, folder: Path) -> Path:
    """Writes report.html and its images into `folder`; returns the page's path."""
    metrics = demo_plots.plot_tasks(data, folder / "metrics.png")
    losses = demo_plots.plot_losses(data.training, folder / "loss.png")
    by_source = [
        demo_plots.plot_sources(stage, folder / f"loss_{name}_by_source.png")
        for name, stage in data.training.items()
        if len(stage.sources()) > 1
    ]
    sections = [
        "<h1>ul2tune demo</h1>",
        f'<p class="facts">{html.escape(facts(data))}</p>',
        f'<p class="key">{html.escape(in_short(data))}</p>',
        "<h2>Before and after instruction tuning</h2>",
        f"<p>{html.escape(CONSTANT)}</p>",
        *(section for group in GROUPS for section in metric_tables(data, group)),
        inline(metrics),
        "<h2>Training</h2>",
        training_table(data),
        *(inline(image) for image in (losses, *by_source)),
        "<h2>One example of every task type</h2>",
        *(section for group in GROUPS for section in samples(data, group)),
        "<h2>The commands</h2>",
        f"<pre>{html.escape(commands(folder))}</pre>",
    ]
    path = folder / "report.html"
    path.write_text(
        '<!doctype html><html lang="en"><meta charset="utf-8"><title>ul2tune demo</title>'
        f"<style>{_STYLE}</style>\n" + "\n".join(sections) + "\n</html>\n",
        encoding="utf-8",
    )
    return path


CONSTANT = (
    "“Most frequent answer” is no model: it always gives the answer most frequent among the "
    "evaluated examples of the task. What a model scores beyond it, it has read in the input. "
    "“n” is the number of examples; rank accuracy is of those with answer choices."
)


def facts(data: DemoData) -> str:
    """Model, device, versions, date."""
    size = f"T5 of {data.num_parameters / 1e6:.1f} M parameters" if data.num_parameters else "T5"
    devices = jax.devices()
    device = f"{len(devices)} x {devices[0].device_kind}"
    if devices[0].platform == "cpu":
        device = f"{os.cpu_count()} CPU cores ({platform.machine()})"
    versions = [f"{name} {importlib.metadata.version(name)}" for name in ("jax", "flax")]
    versions.append(f"Python {platform.python_version()}")
    today = datetime.date.today().isoformat()
    secs = f"{sum(data.secs.values()):.0f} seconds in all"
    return " · ".join([size, device, *versions, today, secs])


def in_short(data: DemoData) -> str:
    """The result in words."""
    parts = []
    for group, title in GROUPS.items():
        for row in report_data.comparison(data, group):
            if row.metric == "exact_match":
                parts.append(
                    f"{title}: exact match {row.before:.1f} → {row.after:.1f} % of "
                    f"{row.num_examples} (most frequent answer: {row.constant:.1f} %)"
                )
    return "; ".join(parts) + "."


def metric_tables(data: DemoData, group: str) -> Iterable[str]:
    """Overall, then task by task."""
    yield f"<h3>{html.escape(GROUPS[group][:1].upper() + GROUPS[group][1:])}</h3>"
    head = ("percent", "n", "before tuning", "after tuning", "most frequent answer")
    rows = [
        (METRIC_NAMES[row.metric], f"{row.num_examples}", f"{row.before:.1f}", f"{row.after:.1f}")
        + (f"{row.constant:.1f}",)
        for row in report_data.comparison(data, group)
    ]
    yield table(head, rows)
    names = ("exact_match", "rouge_l", "rank_accuracy_sum")
    head = ("by task", "n")
    for name in names:
        head += (f"{METRIC_NAMES[name]}: before", "after", "most frequent")
    rows = []
    for task in sorted(
        set(data.before[group].table["tasks"]) & set(data.after[group].table["tasks"])
    ):
        found = {row.metric: row for row in report_data.comparison(data, group, task)}
        cells = (task, f"{max((row.num_examples for row in found.values()), default=0)}")
        for name in names:
            row = found.get(name)
            values = (row.before, row.after, row.constant) if row else (None,) * 3
            cells += tuple(_number(value, "{:.1f}") for value in values)
        rows.append(cells)
    yield table(head, rows)


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


def samples(data: DemoData, group: str) -> Iterable[str]:
    """The first example of every task, with both models' answers."""
    untuned = {(line["task"], line["id"]): line for line in data.before[group].predictions}
    first: dict[str, Mapping] = {}
    for line in data.after[group].predictions:
        first.setdefault(line["task"], line)
    rows = [
        (
            line["prompt"],
            " | ".join(line["references"]),
            untuned.get((line["task"], line["id"]), {}).get("prediction", ""),
            line["prediction"],
        )
        for line in first.values()
    ]
    yield f"<h3>{html.escape(GROUPS[group][:1].upper() + GROUPS[group][1:])}</h3>"
    yield table(("prompt", "reference", "before tuning", "after tuning"), rows, preformatted=True)


def commands(folder: Path) -> str:
    """The stages as one can type them."""
    stages = demo_stages.stages(folder)
    return "\n".join(f"ul2tune {demo_stages.shell(stage.arguments)}" for stage in stages)


def inline(image: Path) -> str:
    """An image that is part of the page."""
    data = base64.b64encode(image.read_bytes()).decode("ascii")
    return f'<p><img src="data:image/png;base64,{data}" alt="{image.stem}"></p>'


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
