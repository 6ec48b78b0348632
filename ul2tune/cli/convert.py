"""`ul2tune import` and `ul2tune export`: models of other programs, by format."""

from __future__ import annotations

import argparse

import jax

from ul2tune.cli import convert_hf

FORMATS = {
    ("import", "hf"): convert_hf.import_model,
    ("export", "hf"): convert_hf.export_model,
}


def run(options: argparse.Namespace) -> None:
    # Conversion moves numbers between files: an accelerator would only be in the way.
    jax.config.update("jax_platforms", "cpu")
    FORMATS[options.command, options.format](options)
