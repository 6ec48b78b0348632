"""`train`, the root function: builds the parts, restores or initialises, enters the loop."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
from jax.sharding import Mesh

from ul2tune import compilation_cache, sharding
from ul2tune.checkpoints import agreement, initialize, layout, streams, vocabulary
from ul2tune.checkpoints.description import describe
from ul2tune.checkpoints.initialize import InitialCheckpoint, warn_of_other_model
from ul2tune.checkpoints.manager import CheckpointManager
from ul2tune.checkpoints.restore import restore_latest
from ul2tune.feed.config import FeedConfig
from ul2tune.feed.feed import Feed, eval_batches
from ul2tune.models import base, flops
from ul2tune.optim import optimizer as optimizer_lib
from ul2tune.optim.clocks import check_step_offsets, warn_of_schedule_end
from ul2tune.optim.optimizer import OptimizerConfig
from ul2tune.sharding import MeshConfig
from ul2tune.status_line import StatusLine
from ul2tune.training import drift, lock, preflight, summary
from ul2tune.training import state as state_lib
from ul2tune.training.compiled import CompiledStep
from ul2tune.training.config import RunConfig
from ul2tune.training.loop import Parts, Position, loop
from ul2tune.training.loss import LossConfig
from ul2tune.training.metrics import Window
from ul2tune.training.step import StepConfig
from ul2tune.training.throughput import Rate, Stopwatch
from ul2tune.training.validation import Validation
from ul2tune.training.writers import MetricsWriter
from ul2tune.types import Hook, InitFn, Tree

log = logging.getLogger(__name__)


def train(
    model: base.ModelConfig,
    data: FeedConfig,
    optimizer: OptimizerConfig,
    mesh: MeshConfig,
    run: RunConfig,
    loss: LossConfig,
    init: InitFn | None = None,
    hooks: Sequence[Hook] = (),
) -> Tree:
    """Pretrains, continues or fine-tunes: which of these is decided by `data`, `init` and
    `optimizer` alone.

    Where the state comes from, in this order:

        1. the newest sound checkpoint in MODEL_DIR: the run resumes;
        2. `init`, for example the parameters of another run (INITIAL_CHECKPOINT_PATH);
        3. fresh parameters drawn from the seed.

    Args:
      model: model configuration (see `ul2tune.models.base.ModelConfig`).
      data: training data.
      optimizer: optimiser, schedule and parameter groups.
      mesh: device mesh.
      run: how long, what to write when.
      loss: objective.
      init: source of initial parameters.
      hooks: called during training, for example to evaluate.

    Returns:
      All parameters after the last step.

    Raises:
      ValueError: for a configuration that cannot work or differs from the checkpoint's, or if all
        checkpoints in MODEL_DIR are damaged.
      NonFiniteLossError: if loss or gradient stop being finite.
      CheckpointWriteError: if a checkpoint cannot be written.
    """
    settings = Settings(model=model, data=data, optimizer=optimizer, mesh=mesh, run=run, loss=loss)
    compilation_cache.use(run.compilation_cache_dir)
    device_mesh = sharding.make_mesh(mesh)
    preflight.check_rows(model, data)
    rows = _local_rows(settings, device_mesh)
    with contextlib.ExitStack() as stack:
        stack.enter_context(jax.set_mesh(device_mesh))
        with agreement.together():
            if jax.process_index() == 0:
                stack.enter_context(lock.exclusive(run.model_dir))
            feed = stack.enter_context(contextlib.closing(Feed(data, rows)))
        preflight.check_ids(model, feed)
        parts, start = _build(settings, device_mesh, feed, init, hooks, stack)
        state = loop(parts, start.state, start.frozen, start.at)
        return state_lib.join(state, start.frozen)["params"]


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The arguments of :func:`train` that are plain configuration."""

    model: base.ModelConfig
    data: FeedConfig
    optimizer: OptimizerConfig
    mesh: MeshConfig
    run: RunConfig
    loss: LossConfig

    def describe(self, prepared: Any) -> dict[str, Any]:
        """What must not change between two starts of one run, as JSON; the mesh may."""
        defining = {name: getattr(self.run, name) for name in drift.RUN_FIELDS}
        return describe(
            {
                "model": self.model,
                "data": self.data,
                "optimizer": self.optimizer,
                "loss": self.loss,
                # What is off leaves no trace: checkpoints from before it existed still fit.
                "run": {name: value for name, value in defining.items() if value is not None},
                "prepared": prepared,
            }
        )


@dataclass(frozen=True, kw_only=True)
class Start:
    """Where a run begins, be it the middle.

    Attributes:
      state: trainable state on its devices.
      frozen: parameters that do not train.
      at: counters and clocks.
      origin: where it came from, for people.
    """

    state: dict[str, Any]
    frozen: dict[str, Any]
    at: Position
    origin: str


def _local_rows(settings: Settings, mesh: Mesh) -> tuple[int, ...]:
    """The rows this process feeds.

    Raises:
      ValueError: if the batch does not divide, or the data would end at different steps.
    """
    data, run = settings.data, settings.run
    if jax.process_count() > 1 and data.num_epochs is not None:
        raise ValueError(
            f"FeedConfig.num_epochs = {data.num_epochs} with {jax.process_count()} processes: "
            f"their data would end at different steps. Leave it None and set TRAIN_STEPS."
        )
    rows = sharding.local_rows(mesh, data.batch_size)
    ways = mesh.shape["data"] * mesh.shape["fsdp"]
    if data.batch_size % (ways * run.num_microbatches):
        raise ValueError(
            f"BATCH_SIZE = {data.batch_size} does not divide into {run.num_microbatches} "
            f"microbatches over data x fsdp = {ways}. Use a multiple of "
            f"{ways * run.num_microbatches}, or fewer microbatches."
        )
    return rows


def _build(
    settings: Settings,
    mesh: Mesh,
    feed: Feed,
    init: InitFn | None,
    hooks: Sequence[Hook],
    stack: contextlib.ExitStack,
) -> tuple[Parts, Start]:
    """Everything the loop drives; what must be closed is closed by `stack`."""
    model, data, run = settings.model, settings.data, settings.run
    optimizer = optimizer_lib.make(
        settings.optimizer, base.abstract_params(model), base.param_axes(model)
    )
    spec = state_lib.specify(model, optimizer, mesh, ema=run.ema_decay is not None)
    _check_hooks(hooks, feed, settings)
    start = _start(settings, spec, optimizer, feed, init)
    step_config = StepConfig(
        model=model,
        loss=settings.loss,
        optimizer=optimizer,
        num_microbatches=run.num_microbatches,
        seed=run.seed,
        num_sources=len(feed.source_names),
        ema_decay=run.ema_decay,
    )
    checkpoints = CheckpointManager(
        Path(run.model_dir) / layout.SUBDIRECTORY,
        keep_last=run.keep_checkpoints,
        keep_period_steps=run.keep_checkpoint_period_steps,
    )
    stack.enter_context(contextlib.closing(checkpoints))
    writer, line = _outputs(run, start.at, stack)
    overview = summary.Overview(
        spec=spec,
        optimizer=optimizer,
        mesh=mesh,
        data=data,
        run=run,
        steps=(start.at.step, start.at.last_step),
        origin=start.origin,
        source_names=feed.source_names,
    )
    parts = Parts(
        config=run,
        model=model,
        mesh=mesh,
        batch_size=data.batch_size,
        feed=feed,
        train_step=CompiledStep(step_config, spec),
        validate=_validation(settings, step_config, feed, mesh),
        hooks=hooks,
        checkpoints=checkpoints,
        description=settings.describe(feed.fingerprints),
        writer=writer,
        line=line,
        describe=lambda step: summary.text(overview, step),
    )
    return parts, start


def _check_hooks(hooks: Sequence[Hook], feed: Feed, settings: Settings) -> None:
    """Shows hooks what they may refuse; not every Hook has such methods."""
    shown = {
        "check_vocabulary": feed.vocabulary,
        "check_model": settings.model,
        "check_model_dir": settings.run.model_dir,
    }
    for hook in hooks:
        for name, what in shown.items():
            check = getattr(hook, name, None)
            if check is not None:
                check(what)


def _outputs(
    run: RunConfig, at: Position, stack: contextlib.ExitStack
) -> tuple[MetricsWriter | None, StatusLine | None]:
    """The metrics files and the live line, of process 0 alone. Collective."""
    with agreement.together():
        if jax.process_index() == 0:
            writer = MetricsWriter(run.model_dir, step=at.step, tensorboard=run.tensorboard)
            stack.enter_context(contextlib.closing(writer))
    if jax.process_index() != 0:
        return None, None
    line = StatusLine(at_once=True)
    stack.callback(line.end)
    return writer, line


def _start(
    settings: Settings,
    spec: state_lib.StateSpec,
    optimizer: optimizer_lib.Optimizer,
    feed: Feed,
    init: InitFn | None,
) -> Start:
    """Restores or initialises; the numbers are the priorities promised by :func:`train`."""
    run, window = settings.run, Window(feed.source_names)
    directory = Path(run.model_dir) / layout.SUBDIRECTORY
    current = settings.describe(feed.fingerprints)

    def accept(meta: Mapping[str, Any], where: str) -> None:
        if run.ema_decay is not None and not initialize.has_ema(meta):
            raise ValueError(
                f"RunConfig.ema_decay = {run.ema_decay} was switched on in the middle of a run: "
                f"{where} holds no average of the steps so far. Leave it None, or start a new "
                f"MODEL_DIR with INITIAL_CHECKPOINT_PATH = {run.model_dir!r}."
            )
        drift.check(meta["config"], current, allow=run.allow_config_change, where=where)

    # 1. The newest sound checkpoint of this run.
    restored = restore_latest(directory, spec.saved, accept)
    if restored is not None:
        state, frozen = state_lib.split(restored.state, spec)
        window.restore(restored.meta["window"])
        clock, step = restored.meta["clock"], restored.step
        _resume_data(feed, restored.meta, current)
        origin = f"checkpoint {step} of this run"
    else:
        # 2. The initial checkpoint, else 3. fresh parameters. Not every InitFn knows a step.
        step = getattr(init, "first_step", 0)
        run.check_ahead(step)
        _check_vocabulary(init, feed, run)
        state, frozen = state_lib.create(spec, settings.model, optimizer, run.seed, init, step)
        if isinstance(init, InitialCheckpoint):
            warn_of_other_model(init.step_dir, settings.model)
        if isinstance(init, InitialCheckpoint) and init.keep_optimizer:
            del state["opt_state"]  # two of them may be more than the devices hold
            state["opt_state"] = init.optimizer_state(spec.state["opt_state"])
        check_step_offsets(settings.optimizer, state["opt_state"])
        origin = "fresh parameters" if init is None else str(init)
        clock = {"first_step": step, "train_secs": 0.0}
    at = Position(
        first_step=clock["first_step"],
        step=step,
        last_step=_last_step(settings, state["opt_state"], clock["first_step"], step),
        saved_step=None if restored is None else step,
        window=window,
        watch=Stopwatch(clock["train_secs"]),
        rate=_rate(settings),
    )
    return Start(state=state, frozen=frozen, at=at, origin=origin)


def _last_step(settings: Settings, opt_state: Any, first_step: int, step: int) -> int:
    """The absolute step to stop at; warns where that leaves nothing to do, or the schedule hanging.

    Args:
      opt_state: the optimiser's state at `step`.
      first_step: the step the run's counter started at.
      step: where the run stands.
    """
    last_step = settings.run.last_step(first_step)
    if step >= last_step:
        log.warning("Nothing to train: the run is at step %d of %d.", step, last_step)
    elif jax.process_index() == 0:
        warn_of_schedule_end(settings.optimizer.schedule, opt_state, last_step - step)
    return last_step


def _resume_data(feed: Feed, meta: Mapping[str, Any], current: Mapping[str, Any]) -> None:
    """Goes to the checkpoint's position in the data, if the data is still that."""
    changes = drift.differences(meta["config"], current)
    for change in drift.told(changes):
        log.warning("Resuming with another configuration: %s", change)
    position = streams.restore(meta["streams"])
    moved = drift.streams_restart(changes)
    if moved is not None and not feed.fits(position):
        log.warning("%s", moved)
    else:
        feed.set_state(position)


def _check_vocabulary(init: InitFn | None, feed: Feed, run: RunConfig) -> None:
    """Refuses initial parameters whose embedding is another vocabulary's."""
    for step_dir in getattr(init, "step_dirs", ()):
        vocabulary.check(
            step_dir,
            feed.vocabulary,
            allow=run.allow_other_vocabulary,
            setting="RunConfig.allow_other_vocabulary",
        )


def _rate(settings: Settings) -> Rate:
    data = settings.data
    per_row = flops.train_flops_per_row(settings.model, data.inputs_length, data.targets_length)
    peak = flops.peak_flops(jax.devices()[0])
    return Rate(
        tokens_per_step=data.batch_size * sum(data.row_lengths),
        flops_per_step=per_row * data.batch_size,
        peak_flops=None if peak is None else peak * jax.device_count(),
    )


def _validation(
    settings: Settings, step_config: StepConfig, feed: Feed, mesh: Mesh
) -> Validation | None:
    """The validation loss, checked now: a missing split should not end a run at its first use."""
    run = settings.run
    if run.eval_period_steps is None:
        return None
    data = dataclasses.replace(settings.data, split=run.eval_split)
    try:
        with Feed(data, feed.rows.tolist()) as opened:
            source_names = opened.source_names
    except FileNotFoundError as error:
        raise ValueError(
            f"The {run.eval_split!r} split of {data.mixture} is not prepared ({error}). Prepare "
            f"it, or set RunConfig.eval_period_steps = None to train without validation."
        ) from error
    return Validation(
        batches=lambda: eval_batches(data, feed.rows.tolist(), run.eval_steps),
        config=dataclasses.replace(step_config, num_sources=len(source_names)),
        source_names=source_names,
        mesh=mesh,
        batch_size=data.batch_size,
    )
