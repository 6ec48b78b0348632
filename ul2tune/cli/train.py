"""`ul2tune train`: prepare what is missing, join the other processes, train."""

from __future__ import annotations

import argparse
from pathlib import Path

from ul2tune.cli import distributed, launch
from ul2tune.cli.prepared import prepare_missing
from ul2tune.training.run import train

CONFIG_FILE = "config.gin"


def run(options: argparse.Namespace) -> None:
    config = launch.load(options, roots=[prepare_missing, train])
    arguments = config.arguments(train)
    index = options.process_index or 0
    config.call(prepare_missing, process_index=index)
    distributed.initialize(options)
    if index == 0:
        config.save(Path(arguments["run"].model_dir) / CONFIG_FILE)
    train(**arguments)
