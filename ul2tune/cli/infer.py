"""`ul2tune infer`: prompts in (JSONL or stdin), generations out (JSONL)."""

from __future__ import annotations

import argparse

from ul2tune.checkpoints import agreement
from ul2tune.cli import distributed, launch
from ul2tune.evaluation.infer import infer

ROOTS = (infer,)


def run(options: argparse.Namespace) -> None:
    config = launch.load(options, roots=ROOTS)
    distributed.initialize(options)
    with agreement.together():  # the vocabulary is read here
        arguments = config.arguments(infer)
    infer(**arguments)
