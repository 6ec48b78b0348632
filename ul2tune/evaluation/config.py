"""The configuration of an evaluation."""

from __future__ import annotations

from dataclasses import dataclass, field

from ul2tune.decoding.sampling import SamplingConfig
from ul2tune.evaluation.predictor import length_buckets
from ul2tune.metrics import registry


@dataclass(frozen=True, kw_only=True)
class EvalConfig:
    """What is asked and how it is judged.

    Attributes:
      split: SeqIO split.
      inputs_length: longer prompts are cut from the right, and counted.
      batch_size: prompts per step; changes speed, and results only as far as rounding in the
        model's dtype does (NUMERICS in `predictor`).
      sampling: how answers are generated.
      metrics: keys of `ul2tune.metrics.registry.SCORES`.
      task_metrics: the metrics a task names itself come on top. Its metric functions always do.
      rank_choices: also rank the answer choices by log-likelihood, where an example has some; those
        with a query per choice are ranked anyway, and never generated for.
      max_examples_per_task: the first so many; None = all.
      length_buckets: padded prompt lengths; empty = powers of two up to `inputs_length`.
      layout: for models that read several (decoder-only ones), the one they were trained with, as
        `FeedConfig.layout`: "prefix_lm" or "causal_lm". None = what the checkpoint says; a
        hook needs it told.
      ema: use the average of the parameters that the run kept (`RunConfig.ema_decay`).
      allow_other_vocabulary: evaluate a checkpoint that was trained with another vocabulary than
        the data's.

    Raises:
      ValueError: on an unknown metric or on buckets that do not reach `inputs_length`.
    """

    split: str = "validation"
    inputs_length: int = 512
    batch_size: int = 32
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    metrics: tuple[str, ...] = ("exact_match", "token_f1", "rouge_l")
    task_metrics: bool = True
    rank_choices: bool = True
    max_examples_per_task: int | None = None
    length_buckets: tuple[int, ...] = ()
    layout: str | None = None
    ema: bool = False
    allow_other_vocabulary: bool = False

    def __post_init__(self) -> None:
        for name in self.metrics:
            if name not in registry.SCORES:
                raise ValueError(f"Unknown metric {name!r}; known are {sorted(registry.SCORES)}.")
        for name in ("inputs_length", "batch_size", "max_examples_per_task"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"EvalConfig.{name} must be positive, got {value}.")
        if list(self.length_buckets) != sorted(set(self.length_buckets)):
            raise ValueError(f"length_buckets must ascend, got {self.length_buckets}.")
        if self.length_buckets and self.length_buckets[-1] < self.inputs_length:
            raise ValueError(
                f"The last of length_buckets {self.length_buckets} is less than inputs_length = "
                f"{self.inputs_length}. Add a bucket or lower inputs_length."
            )

    @property
    def buckets(self) -> tuple[int, ...]:
        """The padded lengths in use."""
        return tuple(self.length_buckets) or length_buckets(self.inputs_length)
