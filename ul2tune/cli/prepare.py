"""`ul2tune prepare`: SeqIO task or mixture -> indexed shards. TensorFlow is imported here."""

from __future__ import annotations

import argparse
import json
import os

from ul2tune.cli import launch
from ul2tune.feed.config import FEED, FeedConfig
from ul2tune.feed.sources import make_noise
from ul2tune.prepare import runtime  # noqa: F401  before SeqIO, which would load TensorFlow loudly
from ul2tune.prepare.noises import noises
from ul2tune.prepare.run import prepare

ROOTS = (prepare,)


def run(options: argparse.Namespace) -> None:
    config = launch.load(options, roots=ROOTS)
    if feed := os.environ.get(FEED):
        asked, reads = config.arguments(prepare), FeedConfig(**json.loads(feed))
        if asked["mixture"] == reads.mixture:  # a run may read a part of what it prepares
            for noise in noises(asked["mixture"], asked["modules"]):
                make_noise(*noise, reads)
    config.call(prepare)
