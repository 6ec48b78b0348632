"""What the gin commands share: load the files, note what is unused, serve `--print_config`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence

from ul2tune.cli import gin_config


def load(options: argparse.Namespace, roots: Sequence[Callable]) -> gin_config.Config:
    """Loads the configuration of a command from its options; `--print_config` stops here."""
    config = gin_config.load(
        options.gin_file,
        options.gin,
        roots=roots,
        search_paths=[path for path in options.gin_search_paths.split(",") if path],
    )
    if options.print_config:
        print(config.text, end="")
        raise SystemExit(0)
    for note in config.notes if options.command != "inspect" else ():
        print(f"note: {note}", file=sys.stderr)
    return config
