"""`ul2tune prepare`: SeqIO task or mixture -> indexed shards. TensorFlow is imported here."""

from __future__ import annotations

import argparse

from ul2tune.cli import launch, parent
from ul2tune.prepare import runtime  # noqa: F401  before SeqIO, which would load TensorFlow loudly
from ul2tune.prepare.run import prepare

ROOTS = (prepare,)


def run(options: argparse.Namespace) -> None:
    parent.end_with()  # the run that waits for us, if there is one
    launch.load(options, roots=ROOTS).call(prepare)
