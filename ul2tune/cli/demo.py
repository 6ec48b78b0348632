"""`ul2tune demo`: the whole road on the embedded corpus, stage by stage, each an ordinary command.

vocabulary and shards -> UL2 pretraining -> UL2R of that checkpoint -> instruction tuning of that ->
evaluation before and after, on held-out examples and held-out task types -> report.html
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ul2tune.cli import demo_report, report_data

SUPERVISED, HELD_OUT = "stdlib_instructions_supervised_eval", "stdlib_instructions_heldout_eval"
FINISHED = "finished.json"


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One child command.

    Attributes:
      name: short name; also the folder under the demo's.
      title: what a reader is told.
      arguments: of `ul2tune`.
    """

    name: str
    title: str
    arguments: tuple[str, ...]


def stages(folder: Path) -> tuple[Stage, ...]:
    """The demo's stages in order; every path lies under `folder`."""

    def command(verb: str, recipe: str, **macros: str) -> tuple[str, ...]:
        macros["DATA_DIR"] = str(folder / "prepared")
        flags = [f"--gin.{name}={value!r}" for name, value in macros.items()]
        return (verb, f"--gin_file=recipes/{recipe}.gin", *flags)

    def train(name: str, title: str, after: str | None = None) -> Stage:
        macros = {"MODEL_DIR": str(folder / name)}
        if after is not None:
            macros["INITIAL_CHECKPOINT_PATH"] = str(folder / after)
        return Stage(name=name, title=title, arguments=command("train", f"demo_{name}", **macros))

    def evaluate(name: str, title: str, checkpoint: str, mixture: str) -> Stage:
        macros = {
            "CHECKPOINT_PATH": str(folder / checkpoint),
            "EVAL_OUTPUT_DIR": str(folder / name),
            "MIXTURE_OR_TASK_NAME": mixture,
        }
        return Stage(name=name, title=title, arguments=command("evaluate", "demo_eval", **macros))

    return (
        train("pretrain", "UL2 pretraining from random parameters (vocabulary and shards first)"),
        train("ul2r", "continued pretraining of that checkpoint with UL2R", after="pretrain"),
        evaluate("before_supervised", "before tuning: trained task types", "ul2r", SUPERVISED),
        evaluate("before_held_out", "before tuning: task types held out", "ul2r", HELD_OUT),
        train("tune", "instruction tuning of that", after="ul2r"),
        evaluate("after_supervised", "after tuning: trained task types", "tune", SUPERVISED),
        evaluate("after_held_out", "after tuning: task types held out", "tune", HELD_OUT),
    )


def run(options: argparse.Namespace) -> None:
    """Runs what is not finished yet, then writes the report.

    Raises:
      ValueError: if a stage fails; running the demo again goes on with it.
    """
    folder = Path(options.dir)
    if options.fresh and folder.exists():
        shutil.rmtree(folder)
    folder.mkdir(parents=True, exist_ok=True)
    todo, start = stages(folder), time.monotonic()
    for number, stage in enumerate(todo, start=1):
        run_stage(stage, f"[{number}/{len(todo)}]", folder)
    data = report_data.collect(folder)
    print(f"\n{report_data.describe(data)}\n")
    path = demo_report.write(data, folder)
    print(f"Report: {path} ({time.monotonic() - start:.0f} s)")


def run_stage(stage: Stage, position: str, folder: Path) -> None:
    """Runs one stage in a child process unless the same command has finished before."""
    done_path = folder / FINISHED
    done = json.loads(done_path.read_text()) if done_path.exists() else {}
    if done.get(stage.name, {}).get("arguments") == list(stage.arguments):
        print(f"{position} {stage.title}: finished before", flush=True)
        return
    print(f"\n{position} {stage.title}\n  ul2tune {shell(stage.arguments)}", flush=True)
    start = time.monotonic()
    status = run_child([sys.executable, "-m", "ul2tune", *stage.arguments])
    if status:
        raise ValueError(
            f"stage {stage.name!r} ended with exit status {status}; its message is above. "
            f"Running the demo again goes on from here; --fresh starts over."
        )
    secs = round(time.monotonic() - start, 1)
    done[stage.name] = {"arguments": list(stage.arguments), "secs": secs}
    temporary = done_path.with_suffix(".tmp")
    temporary.write_text(json.dumps(done, indent=1))
    os.replace(temporary, done_path)
    print(f"{position} done in {secs:.0f} s", flush=True)


def run_child(command: Sequence[str]) -> int:
    """Runs a command, hands SIGTERM on to it, and returns its exit status.

    Raises:
      InterruptedError: if SIGTERM came: a training run then saves and ends with status 0,
        but is not finished.
    """
    stopped = []
    with subprocess.Popen(command) as child:

        def stop(*_) -> None:
            stopped.append(True)
            child.terminate()

        before = signal.signal(signal.SIGTERM, stop)
        try:
            status = child.wait()
        finally:
            signal.signal(signal.SIGTERM, before)
    if stopped:
        raise InterruptedError("stopped by SIGTERM; running the demo again goes on from here.")
    return status


def shell(arguments: Sequence[str]) -> str:
    """The arguments as one can type them."""
    plain = [argument.replace("='", "=").removesuffix("'") for argument in arguments]
    return " ".join(plain)
