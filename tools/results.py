"""The table of docs/results.md from an evaluation: `python tools/results.py EVAL_OUTPUT_DIR`."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

BASELINES = ("copy_input", "copy_demo")
COLUMNS = ("metric", "model", *BASELINES)


def rows(table: Mapping[str, Any]) -> Iterator[tuple[str, ...]]:
    """Name, metric and scores: overall, then categories, then tasks, each by its own metric."""
    overall = [table["overall"], *(table["baselines"][name] for name in BASELINES)]
    for metric in ("rouge_l", "exact_match"):
        yield "**all**", metric, *(f"{scores[metric]:.2f}" for scores in overall)
    for group, mark in (("categories", "*"), ("tasks", "")):
        for name, found in sorted(table["headline"][group].items()):
            scores = (found["score"], *(found[baseline] for baseline in BASELINES))
            yield f"{mark}{name}{mark}", found["metric"], *(f"{score:.2f}" for score in scores)


def markdown(table: Mapping[str, Any]) -> str:
    """The rows as Markdown, with what identifies the evaluation below them."""
    lines = [f"| | {' | '.join(COLUMNS)} |", "|---|---|---|---|---|"]
    lines += [f"| {' | '.join(row)} |" for row in rows(table)]
    lines.append(
        f"\n{table['overall']['num_examples']} examples, split hash `{table['split_hash']}`, "
        f"vocabulary `{table['vocabulary']}`, step {table['step']}."
    )
    return "\n".join(lines)


if __name__ == "__main__":
    path = Path(sys.argv[1]) / "metrics.json"
    print(markdown(json.loads(path.read_text(encoding="utf-8"))))
