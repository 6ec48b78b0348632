"""`ul2tune demo`: the whole road on the embedded corpus, stage by stage, each an ordinary command.

vocabulary and shards -> UL2 pretraining -> UL2R of that checkpoint -> instruction tuning of that ->
evaluation before and after, on held-out examples and held-out task types -> report.html
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

from ul2tune.cli import demo_report, demo_stages, report_data


def run(options: argparse.Namespace) -> None:
    """Runs what is not finished yet, then writes the report.

    Raises:
      ValueError: if the folder is not a demo's, or a stage fails; running the demo again goes on
        with it.
    """
    folder, start = Path(options.dir), time.monotonic()
    todo = demo_stages.stages(folder)
    demo_stages.enter(folder, fresh=options.fresh)
    for number, stage in enumerate(todo, start=1):
        demo_stages.run_stage(stage, f"[{number}/{len(todo)}]", folder)
    data = report_data.collect(folder)
    print(f"\n{report_data.describe(data)}\n")
    path = demo_report.write(data, folder)
    print(f"Report: {path} ({time.monotonic() - start:.0f} s)")
