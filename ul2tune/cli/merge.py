"""`ul2tune merge`: averages, interpolations and task vectors of checkpoints, as a new checkpoint.

One command, because all of them are one sum: what differs is which coefficients are typed.
"""

from __future__ import annotations

import argparse
import shutil
from collections.abc import Sequence
from pathlib import Path

import jax
import numpy as np

from ul2tune.checkpoints import description, initialize, layout, trained_layout, vocabulary
from ul2tune.checkpoints.merge import Merge, Term, combination
from ul2tune.cli import convert_hf, convert_t5x, imported, termination
from ul2tune.signal_handlers import raise_ignored_interrupt
from ul2tune.status_line import Progress


@termination.by_exception()  # what was written so far goes
def run(options: argparse.Namespace) -> None:
    """Writes MODEL_DIR with the merged parameters, model.gin and what an import had left.

    Raises:
      ValueError: if the checkpoints are not of one model, or MODEL_DIR is not empty; nothing is
        written then.
    """
    # Numbers are moved between files: an accelerator would only be in the way.
    jax.config.update("jax_platforms", "cpu")
    sources = [Path(path) for path in options.checkpoints]
    step_dirs = _last(sources, options.last) if options.last else list(map(_resolve, sources))
    base = None if options.base is None else _resolve(options.base)
    terms = combination(step_dirs, _weights(options.weights), base, ema=options.ema)
    merge, config = Merge(terms), description.model_of(terms[0].step_dir)
    step = max(int(term.step_dir.name) for term in terms) if options.step is None else options.step
    sizes = {path: 4 * int(np.prod(shape)) for path, shape in merge.shapes.items()}
    progress = Progress("merged", sum(sizes.values()), "MB", per=10**6)
    origins = [term.to_json() for term in terms]
    used = [term.step_dir for term in terms]
    facts = {"merged": origins, **vocabulary.carried(used), **trained_layout.carried(used)}
    origin = f"Written by `ul2tune merge` from {len(terms)} checkpoints."
    target = imported.new_model_dir(options.model_dir, step, config, origin, facts=facts)
    with target as (folder, writer):
        for path, value in merge.arrays():
            raise_ignored_interrupt()
            writer.array(f"{initialize.PARAMS}/{path}", value.shape).append(value)
            progress.advance(sizes[path])
        _carry(terms, folder)
    progress.close()
    for term in terms:
        print(f"{term.coefficient:+.6g} x {term.step_dir}{' (ema)' if term.ema else ''}")
    print(f"{options.model_dir}: checkpoint of step {step}; MODEL in {imported.GIN_FILE}.")


def _resolve(path: str | Path) -> Path:
    step_dir = initialize.resolve(path)
    if not step_dir.name.isdigit():
        raise ValueError(f"{step_dir} is a checkpoint of no step: its folder's name is no number.")
    return step_dir


def _last(sources: Sequence[Path], last: int) -> list[Path]:
    """The newest checkpoints of one run."""
    if len(sources) != 1:
        raise ValueError(f"--last={last} takes one MODEL_DIR, got {len(sources)} checkpoints.")
    newest = _resolve(sources[0])
    steps = layout.steps(newest.parent)
    if len(steps) < last:
        raise ValueError(
            f"{newest.parent} holds {len(steps)} checkpoints (of steps {steps}), --last={last} "
            f"wants more. A run keeps as many as RunConfig.keep_checkpoints says."
        )
    return [newest.parent / str(step) for step in steps[-last:]]


def _weights(text: str | None) -> list[float] | None:
    if text is None:
        return None
    try:
        return [float(part) for part in text.split(",")]
    except ValueError:
        raise ValueError(
            f"--weights={text} should be numbers, such as --weights=0.3,0.7."
        ) from None


def _carry(terms: Sequence[Term], folder: Path) -> None:
    """Tokenizer files and records of the first that was imported: the result exports like it."""
    for name, record in (
        (convert_hf.FOLDER, convert_hf.RECORD),
        (convert_t5x.FOLDER, convert_t5x.RECORD),
    ):
        beside = [layout.model_dir(term.step_dir) / name for term in terms]
        found = [path for path in beside if (path / record).is_file()]
        if found:
            shutil.copytree(found[0], folder / name)
