"""`ul2tune inspect`: what a run would see, before any computing is spent on it."""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Mapping
from typing import Any

from ul2tune.cli import inspect_checkpoint, launch
from ul2tune.cli import inspect_sections as sections
from ul2tune.cli.prepared import for_run, prepare_missing
from ul2tune.cli.shown import MOST
from ul2tune.data import manifest
from ul2tune.feed.config import FeedConfig
from ul2tune.feed.feed import Feed
from ul2tune.first_names import first_names
from ul2tune.nearest import did_you_mean

ROOTS = (prepare_missing, FeedConfig)


def run(options: argparse.Namespace) -> None:
    if options.checkpoints:
        inspect_checkpoint.run(options)
        return
    config = launch.load(options, roots=ROOTS)
    data = config.call(FeedConfig)
    data = dataclasses.replace(data, split=options.split or data.split, num_workers=0)
    with for_run(data=data):
        config.call(prepare_missing, splits=(data.split,))
    mixture = manifest.read_mixture(data.data_dir, data.mixture)
    if options.task is not None and options.task not in mixture.tasks:
        raise ValueError(
            f"--task={options.task} is not a task of {data.mixture!r}"
            f"{did_you_mean(options.task, mixture.tasks)}, which has "
            f"{first_names(mixture.tasks, MOST)}."
        )
    names = [options.task] if options.task else list(mixture.tasks)
    tasks = [manifest.read_task(data.data_dir, name, data.split) for name in names]
    most = None if options.all else MOST
    sections.print_tasks(data, mixture, tasks, most)
    with Feed(data) as feed:
        sections.print_rows(feed, options)
        sections.print_fill(feed, options.batches, most)
        steps = options.steps or _planned_steps(config.macros)
        sections.print_tree(feed, mixture, steps, most)
        sections.print_audit(feed, data, mixture, tasks, most)
    if options.against is not None:
        sections.print_overlap(data, options)


def _planned_steps(macros: Mapping[str, Any]) -> int | None:
    """Of the training recipe that is inspected, if it is one."""
    return macros.get("TRAIN_STEPS_RELATIVE") or macros.get("TRAIN_STEPS")
