"""`ul2tune evaluate`: score a checkpoint on the tasks of a mixture."""

from __future__ import annotations

import argparse

from ul2tune.cli import distributed, launch
from ul2tune.cli.prepared import prepare_missing
from ul2tune.evaluation.run import evaluate

ROOTS = (prepare_missing, evaluate)


def run(options: argparse.Namespace) -> None:
    config = launch.load(options, roots=ROOTS)
    config.call(prepare_missing, process_index=distributed.initialize(options))
    config.call(evaluate)
