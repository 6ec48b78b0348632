"""The settings of one run that are neither model, data, optimiser, loss nor mesh."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """How long to train, and what to write when.

    Attributes:
      model_dir: folder of the run: checkpoints, metrics.jsonl, timing.jsonl, tensorboard. If it
        holds checkpoints of this run, training resumes from the newest sound one.
      train_steps: step to stop at. As in T5X, the steps of an initial checkpoint count (unless
        `InitialCheckpoint.keep_step` is off).
      train_steps_relative: instead of `train_steps`, the number of steps after the initial
        checkpoint.
      seed: of parameter initialisation and dropout. (The data has a seed of its own.)
      num_microbatches: the batch is split into this many parts whose gradients are added, for
        memory. Exact: the objective is the same weighted mean over all tokens of the batch.
        DIVERGES: T5X normalises each part by itself, where it normalises, so that its gradients
        are as many times larger and tokens of short parts weigh more.
      ema_decay: keep an exponential moving average of the trained parameters, ``ema = ema_decay *
        ema + (1 - ema_decay) * parameters`` after every step, from the first parameters on. It
        takes the memory of one more set of parameters and is saved as ``ema/…``. None keeps none.
      eval_ema: validation and hooks judge the average.
      checkpoint_period_steps: save at multiples of this, at the first step and at the end.
      keep_checkpoints: number of newest checkpoints to keep.
      keep_checkpoint_period_steps: keep checkpoints at multiples of this, as long as every later
        start of the run sets it too; a start that would delete some of them warns.
      log_period_steps: metrics are averaged over, and written at multiples of, this many steps.
      eval_period_steps: validation loss at multiples of this and at the end; None turns it off.
      eval_split: the split of the mixture for the validation loss.
      eval_steps: validation batches per evaluation at most; None takes the whole split.
      allow_config_change: resume although model, data, loss or optimiser differ from the
        checkpoint's.
      allow_other_vocabulary: start from an initial checkpoint that was trained with another
        vocabulary than the data's.
      tensorboard: also write TensorBoard event files.
      compilation_cache_dir: folder of JAX's persistent compilation cache; None leaves what JAX or
        JAX_COMPILATION_CACHE_DIR say (the command line sets a folder of the user's cache).
    """

    model_dir: str
    train_steps: int | None = None
    train_steps_relative: int | None = None
    seed: int = 0
    num_microbatches: int = 1
    ema_decay: float | None = None
    eval_ema: bool = False
    checkpoint_period_steps: int = 1000
    keep_checkpoints: int = 3
    keep_checkpoint_period_steps: int | None = None
    log_period_steps: int = 100
    eval_period_steps: int | None = 1000
    eval_split: str = "validation"
    eval_steps: int | None = 20
    allow_config_change: bool = False
    allow_other_vocabulary: bool = False
    tensorboard: bool = True
    compilation_cache_dir: str | None = None

    def __post_init__(self):
        if (self.train_steps is None) == (self.train_steps_relative is None):
            raise ValueError(
                f"Set exactly one of TRAIN_STEPS and TRAIN_STEPS_RELATIVE; they are "
                f"{self.train_steps} and {self.train_steps_relative}."
            )
        if "://" in self.model_dir:
            raise ValueError(
                f"MODEL_DIR = {self.model_dir!r} is not a path of the file system. Mount the "
                f"bucket (for example with gcsfuse) and give the mounted path."
            )
        for name in (
            "train_steps",
            "train_steps_relative",
            "num_microbatches",
            "checkpoint_period_steps",
            "keep_checkpoints",
            "keep_checkpoint_period_steps",
            "log_period_steps",
            "eval_period_steps",
            "eval_steps",
        ):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"RunConfig.{name} = {value} must be at least 1.")
            if value is not None and name.startswith("train_steps") and value >= 2**31:
                raise ValueError(
                    f"RunConfig.{name} = {value} must be below 2**31: steps are counted in int32. "
                    f"Is it a number of tokens?"
                )
        if not 0 <= self.seed < 2**32:
            raise ValueError(
                f"RunConfig.seed = {self.seed} is not in [0, 2**32): JAX's keys take 32 bits, "
                f"and two seeds must not mean the same numbers."
            )
        if self.ema_decay is not None and not 0 < self.ema_decay < 1:
            raise ValueError(
                f"RunConfig.ema_decay = {self.ema_decay} must lie between 0 and 1, such as 0.999; "
                f"None keeps no average."
            )
        if self.eval_ema and self.ema_decay is None:
            raise ValueError("RunConfig.eval_ema = True needs an average: set RunConfig.ema_decay.")

    def last_step(self, first_step: int) -> int:
        """The absolute step to stop at, for a run whose counter starts at `first_step`."""
        if self.train_steps_relative is not None:
            return first_step + self.train_steps_relative
        assert self.train_steps is not None
        return self.train_steps

    def check_ahead(self, first_step: int) -> None:
        """Raises ValueError if a run that begins at `first_step` would have nothing to do."""
        if first_step >= self.last_step(first_step):
            raise ValueError(
                f"TRAIN_STEPS = {self.train_steps} is over before the run begins: the steps of the "
                f"initial checkpoint count, and it is at step {first_step}. Raise TRAIN_STEPS, or "
                f"set TRAIN_STEPS_RELATIVE instead."
            )
