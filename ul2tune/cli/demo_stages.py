"""The demo's stages: what they are, and running those that are not finished."""

from __future__ import annotations

import hashlib
import importlib
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ul2tune import atomic
from ul2tune.cli import gin_config, parent
from ul2tune.cli import options as options_lib
from ul2tune.signal_handlers import handled

SUPERVISED, HELD_OUT = "stdlib_instructions_supervised_eval", "stdlib_instructions_heldout_eval"
FINISHED, PREPARED = "finished.json", "prepared"
REPORT_FILES = (
    "report.html",
    "loss.png",
    "metrics.png",
    *(f"loss_{name}_by_source.png" for name in ("pretrain", "ul2r", "tune")),
)


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One child command.

    Attributes:
      name: short name; also the folder under the demo's.
      title: what a reader is told.
      arguments: of `ul2tune`.
      after: name of the stage whose checkpoint it takes; empty = none.
      outputs: files and folders under the demo's that it leaves.
    """

    name: str
    title: str
    arguments: tuple[str, ...]
    after: str = ""
    outputs: tuple[str, ...] = ()


def stages(folder: Path) -> tuple[Stage, ...]:
    """The demo's stages in order; every path lies under `folder`."""

    def command(verb: str, recipe: str, **macros: str) -> tuple[str, ...]:
        macros["DATA_DIR"] = str(folder / PREPARED)
        flags = [f"--gin.{name}={value!r}" for name, value in macros.items()]
        return (verb, f"--gin_file=recipes/{recipe}.gin", *flags)

    def train(name: str, title: str, after: str = "") -> Stage:
        macros = {"MODEL_DIR": str(folder / name)}
        if after:
            macros["INITIAL_CHECKPOINT_PATH"] = str(folder / after)
        return Stage(
            name=name,
            title=title,
            arguments=command("train", f"demo_{name}", **macros),
            after=after,
            outputs=(f"{name}/metrics.jsonl", f"{name}/checkpoints"),
        )

    def evaluate(name: str, title: str, checkpoint: str, mixture: str) -> Stage:
        macros = {
            "CHECKPOINT_PATH": str(folder / checkpoint),
            "EVAL_OUTPUT_DIR": str(folder / name),
            "MIXTURE_OR_TASK_NAME": mixture,
        }
        return Stage(
            name=name,
            title=title,
            arguments=command("evaluate", "demo_eval", **macros),
            after=checkpoint,
            outputs=(f"{name}/metrics.json", f"{name}/predictions.jsonl"),
        )

    return (
        train("pretrain", "UL2 pretraining from random parameters (vocabulary and shards first)"),
        train("ul2r", "continued pretraining of that checkpoint with UL2R", after="pretrain"),
        evaluate("before_supervised", "before tuning: trained task types", "ul2r", SUPERVISED),
        evaluate("before_held_out", "before tuning: task types held out", "ul2r", HELD_OUT),
        train("tune", "instruction tuning of that", after="ul2r"),
        evaluate("after_supervised", "after tuning: trained task types", "tune", SUPERVISED),
        evaluate("after_held_out", "after tuning: task types held out", "tune", HELD_OUT),
    )


def enter(folder: Path, *, fresh: bool) -> None:
    """Makes the demo's folder, or checks that it is one; `fresh` deletes what a demo made there.

    Raises:
      ValueError: if the folder holds something, but no demo.
    """
    record = folder / FINISHED
    if folder.exists() and not record.is_file() and (not folder.is_dir() or any(folder.iterdir())):
        raise ValueError(
            f"{folder} is not a demo's folder (there is no {FINISHED} in it) and not empty: "
            f"nothing there was touched. Choose another --dir."
        )
    if fresh and record.is_file():
        for name in (*(stage.name for stage in stages(folder)), PREPARED):
            _delete(folder / name)
        for path in (record, *(folder / name for name in REPORT_FILES)):
            path.unlink(missing_ok=True)
    folder.mkdir(parents=True, exist_ok=True)
    if not record.is_file():
        _write_record(record, {})


def run_stage(stage: Stage, position: str, folder: Path) -> None:
    """Runs one stage in a child process, unless it has finished before: with the same
    configuration, after the same run of the stage it builds on, and its files are still there.

    What an interrupted stage left is continued; what another configuration left is deleted.
    """
    record = folder / FINISHED
    done = json.loads(record.read_text(encoding="utf-8"))
    started = done.get(stage.after, {}).get("started")
    key = {"configuration": configuration(stage.arguments), "after": started}
    known = done.get(stage.name, {})
    is_same = all(known.get(name) == value for name, value in key.items())
    if is_same and "secs" in known and all((folder / path).exists() for path in stage.outputs):
        print(f"{position} {stage.title}: finished before", flush=True)
        return
    if known and (not is_same or "secs" in known):
        print(f"{position} {stage.name}: its outputs are out of date and are deleted", flush=True)
        _delete(folder / stage.name)
        known = {}
    known = {"started": known.get("started", time.time()), **key}
    _write_record(record, done | {stage.name: known})
    print(f"\n{position} {stage.title}\n  ul2tune {shell(stage.arguments)}", flush=True)
    start = time.monotonic()
    status = run_child([sys.executable, "-m", "ul2tune", *stage.arguments])
    if status:
        raise ValueError(
            f"stage {stage.name!r} ended with exit status {status}; its message is above. "
            f"Running the demo again goes on from here; --fresh starts over."
        )
    known["secs"] = round(time.monotonic() - start, 1)
    _write_record(record, done | {stage.name: known})
    print(f"{position} done in {known['secs']:.0f} s", flush=True)


def configuration(arguments: Sequence[str]) -> str:
    """A hash of the whole configuration that a command's arguments mean: recipes may change."""
    options = options_lib.parse(arguments)
    module = importlib.import_module(options_lib.COMMANDS[options.command][0])
    config = gin_config.load(options.gin_file, options.gin, roots=module.ROOTS)
    return hashlib.sha256(config.text.encode()).hexdigest()[:16]


def _delete(folder: Path) -> None:
    if folder.exists():
        shutil.rmtree(folder)


def _write_record(path: Path, done: Mapping[str, Any]) -> None:
    atomic.write_text(path, json.dumps(done, indent=1))


def run_child(command: Sequence[str]) -> int:
    """Runs a command of ours, hands SIGTERM on to it, and returns its exit status. It ends with us,
    also where we are killed.

    Raises:
      InterruptedError: if SIGTERM came: a training run then saves and ends with status 0,
        but is not finished.
    """
    stopped = []
    environment = {**os.environ, **parent.named()}
    with subprocess.Popen(command, env=environment) as child:

        def stop(*_) -> None:
            stopped.append(True)
            child.terminate()

        try:
            with handled(signal.SIGTERM, stop):
                status = child.wait()
        except KeyboardInterrupt:  # the child's too, but it may compile, where no Ctrl-C reaches it
            child.kill()
            child.wait()
            raise
    if stopped:
        raise InterruptedError("stopped by SIGTERM; running the demo again goes on from here.")
    return status


def shell(arguments: Sequence[str]) -> str:
    """The arguments as one can type them."""
    plain = [argument.replace("='", "=").removesuffix("'") for argument in arguments]
    return shlex.join(plain)
