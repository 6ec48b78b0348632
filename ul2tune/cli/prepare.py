"""`ul2tune prepare`: SeqIO task or mixture -> indexed shards. TensorFlow is imported here."""

from __future__ import annotations

import argparse

from ul2tune.cli import launch
from ul2tune.prepare import runtime  # noqa: F401  before SeqIO, which would load TensorFlow loudly
from ul2tune.prepare.run import prepare

ROOTS = (prepare,)


def run(options: argparse.Namespace) -> None:
    launch.load(options, roots=ROOTS).call(prepare)
