"""The loop. What it needs is built in `ul2tune.training.run`; here is only the order of things."""

from __future__ import annotations

import contextlib
import json
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from ul2tune import sharding
from ul2tune.checkpoints import streams, vocabulary
from ul2tune.checkpoints.manager import CheckpointManager
from ul2tune.models.base import ModelConfig
from ul2tune.status_line import StatusLine
from ul2tune.training import progress
from ul2tune.training.compiled import CompiledStep
from ul2tune.training.config import RunConfig
from ul2tune.training.metrics import MUST_BE_FINITE, NonFiniteLossError, StepRecord, Window
from ul2tune.training.signals import StopSignal
from ul2tune.training.state import averaged, join
from ul2tune.training.throughput import Rate, Stopwatch
from ul2tune.training.writers import MetricsWriter
from ul2tune.types import Batch, Hook, HookContext, Tree

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Parts:
    """What the loop drives; built once by `run.train`.

    Attributes:
      config: the run's settings.
      model: model configuration, for hooks.
      mesh: device mesh.
      batch_size: rows of the global batch.
      feed: this process's rows (an iterator with `get_state` and `is_over`).
      train_step: ``(state, frozen, batch) -> (state, metrics)``, compiled once.
      validate: ``params -> {name: value}``, or None.
      hooks: called after steps.
      checkpoints: where states go.
      description: JSON of the configuration, saved with every checkpoint.
      writer: files; None except in process 0.
      line: the live line; None except in process 0.
      describe: the table to show once the step is compiled.
    """

    config: RunConfig
    model: ModelConfig
    mesh: Mesh
    batch_size: int
    feed: Any
    train_step: CompiledStep
    validate: Callable[[Tree], Mapping[str, float]] | None
    hooks: Sequence[Hook]
    checkpoints: CheckpointManager
    description: Mapping[str, Any]
    writer: MetricsWriter | None
    line: StatusLine | None
    describe: Callable[[CompiledStep], str]


@dataclass(kw_only=True)
class Position:
    """Where a run is; changes as it goes, and is saved with a checkpoint.

    Attributes:
      first_step: the step the run's counter began at (that of its initial checkpoint, or 0).
      step: optimiser steps done.
      last_step: step to stop at; moved forward to `step` when the data ends.
      saved_step: step of the newest checkpoint, if there is one.
      window: metrics since the last log line.
      watch: training time.
      rate: throughput since the last log line.
      logged: whether this process has written a log line yet.
    """

    first_step: int
    step: int
    last_step: int
    saved_step: int | None
    window: Window
    watch: Stopwatch
    rate: Rate
    logged: bool = False


def loop(parts: Parts, state: Tree, frozen: Tree, at: Position) -> Tree:
    """Trains from `at.step` to `at.last_step` and returns the last state.

    THE ORDER OF ONE TURN IS A CONTRACT:

        1. SAVE(STATE, STREAMS)   what is saved is what the next batch will meet
        2. BATCH                  streams move on
        3. STEP                   state moves on
        4. HOOKS                  log, validation, hooks see the state after the step

    A checkpoint of step n therefore holds everything that happened up to and including the hooks of
    step n, and nothing of what comes after: a resumed run repeats no line and skips none.

    Raises:
      NonFiniteLossError: naming the step; the state is not saved.
      CheckpointWriteError: if a checkpoint cannot be written.
    """
    config, start = parts.config, at.step
    at.rate.restart(at.step, at.watch.now(), at.window.tokens_seen)
    with StopSignal() as stop:
        while True:
            # 1. SAVE(STATE, STREAMS)
            stopping, done = stop.requested(at.step), at.step >= at.last_step
            due = at.step % config.checkpoint_period_steps == 0 or stopping or done
            if (due or at.step == start) and at.saved_step != at.step:
                _settle(parts, at, keep=0)  # the time of the step in flight is training time
                at.watch.stop()
                save(parts, state, frozen, at)
            if stopping or done:
                break

            # 2. BATCH
            before = parts.feed.get_state()
            try:
                local = next(parts.feed)
            except StopIteration:  # the data had ended before this run was resumed
                _end_here(parts, at)
                continue
            batch = sharding.to_global(local, parts.mesh, parts.batch_size)

            # 3. STEP
            if not parts.train_step.is_compiled:
                _compile(parts, state, frozen, batch)
            at.watch.start()
            state, metrics = parts.train_step(state, frozen, batch)
            at.step += 1
            at.window.push(
                StepRecord(
                    step=at.step,
                    metrics=metrics,
                    streams=before,
                    sources=local.get("decoder_source_ids"),
                )
            )
            # Asked now, before hooks and the next save: they must know that this step is the last
            # one, as a run that is stopped after it would never write its last lines.
            if at.step < at.last_step and parts.feed.is_over():
                _end_here(parts, at)
            # The step just dispatched keeps the device busy while the one before it is looked at.
            _settle(parts, at, keep=1)
            _show(parts, at)

            # 4. HOOKS
            observe(parts, state, frozen, at)
        # Still in the context of the signal: a second one must not cut off the last save.
        parts.checkpoints.wait()
    if at.step > start:
        _show(parts, at, last=True)
    if parts.line is not None:
        parts.line.end()
    if stopping and not done:
        log.warning("Stopped by SIGTERM after step %d; the same command resumes.", at.step)
    return state


def _compile(parts: Parts, state: Tree, frozen: Tree, batch: Batch) -> None:
    """Compiles the step for its first batch, which may take minutes, and shows the table."""
    line = parts.line
    with contextlib.nullcontext() if line is None else line.during("compiling the step"):
        parts.train_step.compile(state, frozen, batch)
    _note(parts, parts.describe(parts.train_step))


def _show(parts: Parts, at: Position, *, last: bool = False) -> None:
    """Shows the newest step that has run to its end: the one in flight has no loss yet."""
    if parts.line is None:
        return
    finished, ends = at.step - len(at.window.pending), (at.first_step, at.last_step)

    def text() -> str:
        rates = at.rate.measure(finished, at.watch.now(), at.window.tokens_seen)
        return progress.line(finished, ends, at.window.latest, rates, at.watch.stretch())

    parts.line.show((finished, ends), text, now=last or finished == at.last_step)


def _note(parts: Parts, text: str) -> None:
    if parts.line is not None:
        parts.line.note(text)


def _end_here(parts: Parts, at: Position) -> None:
    """Makes the current step the last one, as the data has ended."""
    log.warning("The data ended after step %d of %d.", at.step, at.last_step)
    at.last_step = at.step


def observe(parts: Parts, state: Tree, frozen: Tree, at: Position) -> None:
    """What happens after a step: log line, validation loss, hooks; each at its own period and at
    the end."""
    config, step = parts.config, at.step

    def due(period_steps: int) -> bool:
        return step % period_steps == 0 or step == at.last_step

    if due(config.log_period_steps):
        _settle(parts, at, keep=0)
        _log(parts, at)
    period = config.eval_period_steps
    validate = parts.validate if period is not None and due(period) else None
    hooks = [hook for hook in parts.hooks if due(hook.period_steps)]
    if validate is None and not hooks:
        return
    _settle(parts, at, keep=0)
    at.watch.stop()
    params = averaged(state, frozen) if config.eval_ema else join(state, frozen)["params"]
    values = dict(validate(params)) if validate is not None else {}
    context = HookContext(
        step=step,
        params=params,
        model=parts.model,
        mesh=parts.mesh,
        model_dir=config.model_dir,
    )
    for hook in hooks:
        values.update(hook(context))
    if values:
        _note(parts, progress.evaluated(step, values))
    if parts.writer is not None and values:
        parts.writer.metrics(step, values)


def save(parts: Parts, state: Tree, frozen: Tree, at: Position) -> None:
    """Saves state, streams, clock and the unfinished log window together. Collective."""
    meta = {
        "streams": streams.gather(parts.feed.get_state()),
        "window": at.window.to_json(),
        "clock": {"train_secs": at.watch.now(), "first_step": at.first_step},
        "config": parts.description,
        vocabulary.KEY: vocabulary.identity(parts.feed.vocabulary),
    }
    parts.checkpoints.save(at.step, join(state, frozen), meta)
    at.saved_step = at.step


def _log(parts: Parts, at: Position) -> None:
    _show(parts, at)
    secs, tokens = at.watch.now(), at.window.tokens_seen
    rates = at.rate.measure(at.step, secs, tokens)
    values = at.window.take()
    at.rate.restart(at.step, secs, tokens)
    # An error of a background save should not wait for the next one.
    parts.checkpoints.check()
    if not at.logged:
        at.logged = True
        fills = [
            f"{k.removesuffix('_fill')} {v:.1%}" for k, v in values.items() if k.endswith("_fill")
        ]
        _note(parts, f"fill (positions that are not padding): {', '.join(fills)}")
    if parts.writer is not None:
        parts.writer.metrics(at.step, values)
        parts.writer.timing(at.step, {**rates, "train_secs": secs})


def _settle(parts: Parts, at: Position, *, keep: int) -> None:
    bad = at.window.settle(keep)
    if bad is None:
        return
    where = _dump(parts, bad)
    if parts.line is not None:
        parts.line.end()
    parts.checkpoints.wait()
    values = ", ".join(f"{name} = {at.window.latest[name]}" for name in MUST_BE_FINITE)
    intact = f"step {at.saved_step}" if at.saved_step is not None else "none"
    raise NonFiniteLossError(
        f"Step {bad.step} is not finite: {values}. Newest checkpoint: {intact}, untouched. "
        f"The batch's origin (rows, sources and stream states) {where}. Lower the learning "
        f"rate, clip gradients or look at the data, then run again to resume from the checkpoint."
    )


def _dump(parts: Parts, bad: StepRecord) -> str:
    """Writes what it takes to draw the offending batch again; says where. Collective."""
    state = streams.gather(bad.streams)
    path = Path(parts.config.model_dir) / f"nonfinite-step-{bad.step}.json"
    sources = None
    if bad.sources is not None:
        names = ("(padding)", *parts.feed.source_names)
        counts = np.bincount(bad.sources.reshape(-1), minlength=len(names))
        sources = {name: int(count) for name, count in zip(names, counts)}
    if jax.process_index() == 0:
        dump = {
            "step": bad.step,
            "target_tokens_by_source_of_process_0": sources,
            "rows": state[streams.ROW],
            "streams_before_the_batch": state,
        }
        try:
            path.write_text(json.dumps(dump, indent=1) + "\n", encoding="utf-8")
        except OSError as error:  # the error to raise is that of the step
            return f"could not be written to {path} ({error.strerror})"
    return f"is in {path}"
