"""`ul2tune import` and `ul2tune export`: models of other programs, by format."""

from __future__ import annotations

import argparse

import jax

from ul2tune.cli import convert_hf, convert_t5x, termination

FORMATS = {
    ("import", "hf"): convert_hf.import_model,
    ("export", "hf"): convert_hf.export_model,
    ("import", "t5x"): convert_t5x.import_model,
    ("export", "t5x"): convert_t5x.export_model,
}
# Flags that mean nothing to the other formats.
ONLY = {
    "revision": "hf",
    "text_only": "hf",
    "like": "hf",
    "max_shard_size": "hf",
    "set": "t5x",
    "layout": "t5x",
    "t5x_format": "t5x",
    "no_optimizer_state": "t5x",
}


@termination.by_exception()  # what was written so far goes
def run(options: argparse.Namespace) -> None:
    for flag, format in ONLY.items():
        if getattr(options, flag, None) is not None and options.format != format:
            raise ValueError(
                f"--{flag} means something to the format {format!r} only, not to "
                f"{options.format!r}; leave it out."
            )
    # Conversion moves numbers between files: an accelerator would only be in the way.
    jax.config.update("jax_platforms", "cpu")
    FORMATS[options.command, options.format](options)
