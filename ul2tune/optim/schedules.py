"""Learning-rate schedules: one frozen config that is itself the function step -> learning rate."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated

import jax
import jax.numpy as jnp

# schedule -> the fields it reads besides learning_rate, warmup_steps and step_offset.
_FIELDS = {
    "constant": (),
    "rsqrt": ("timescale_steps",),
    "linear": ("total_steps", "final_learning_rate"),
    "cosine": ("total_steps", "final_learning_rate"),
    "wsd": ("total_steps", "final_learning_rate", "decay_steps"),
}
_OPTIONAL = ("timescale_steps", "total_steps", "final_learning_rate", "decay_steps")


@dataclass(frozen=True, kw_only=True)
class ScheduleConfig:
    """The learning rate after ``step`` updates of an optimiser state, by `name`.

    DIVERGES: T5X's schedules never fall below 1e-8; ours may be 0, as in a warmup's first step.

    With ``t = max(0, step - step_offset)``, ``W = warmup_steps``, ``T = total_steps``,
    ``d = decay_steps``, ``r = learning_rate``, ``f = final_learning_rate`` (default 0) and
    ``ramp = min(1, t / W)`` (1 if W = 0)::

        constant  ramp * r
        rsqrt     ramp * r / sqrt(max(t, timescale_steps))
        linear    ramp * (f + (r - f) * (1 - p)),              p = clip((t - W) / (T - W), 0, 1)
        cosine    ramp * (f + (r - f) * (1 + cos(pi p)) / 2),  p as above
        wsd       ramp * (f + (r - f) * (1 - p)),              p = clip((t - T + d) / d, 0, 1)

    The ramp is T5X's `linear_warmup`: the first update of a warmed-up run has rate 0.

    Attributes:
      name: "constant", "rsqrt", "linear", "cosine" or "wsd" (warmup, stable, decay).
      learning_rate: the peak; for "rsqrt" the base: T5's pretraining is base 1.0 over 10,000
        steps, a flat 0.01 that then falls as 1 / sqrt(t) (T5X: `constant * rsqrt_decay`, where
        `warmup_steps` means our `timescale_steps`).
      warmup_steps: length of the linear ramp from 0.
      timescale_steps: "rsqrt" only; default 10,000.
      total_steps: the step the decay ends at; "linear", "cosine" and "wsd" need it. A run warns if
        that is not where it ends itself (`optim.clocks`).
      decay_steps: "wsd" needs it: the decay covers the last `decay_steps` of `total_steps`.
      final_learning_rate: where "linear", "cosine" and "wsd" end and stay.
      step_offset: the step that counts as the schedule's 0. DIVERGES: T5X counts the steps of the
        initial checkpoint too and needs a positive offset to start a schedule anew there; our steps
        are those of the optimiser's state, new with the run unless carried over, and -1_000_000
        goes on with the schedule of a million steps before. A run refuses to start with an offset
        beyond the steps its state has behind it (`optim.clocks`).

    References: T5X `utils.create_learning_rate_scheduler`; Loshchilov & Hutter 2017
    (arXiv:1608.03983, cosine); Hu et al. 2024 (arXiv:2404.06395, section 4, WSD).
    NUMERICS: evaluated in float32.
    """

    name: Annotated[str, _FIELDS] = "constant"
    learning_rate: float = 1e-3
    warmup_steps: int = 0
    timescale_steps: int | None = None
    total_steps: int | None = None
    decay_steps: int | None = None
    final_learning_rate: float | None = None
    step_offset: int = 0

    def __post_init__(self):
        if self.name not in _FIELDS:
            raise ValueError(
                f"ScheduleConfig.name = {self.name!r} is unknown; use one of {', '.join(_FIELDS)}."
            )
        for field in _OPTIONAL:
            if getattr(self, field) is not None and field not in _FIELDS[self.name]:
                raise ValueError(
                    f"ScheduleConfig.{field} = {getattr(self, field)} has no meaning for the "
                    f"{self.name!r} schedule; remove it or choose another schedule."
                )
        for field, macro, hint in (
            ("total_steps", "SCHEDULE_STEPS", " to the steps of this run"),
            ("decay_steps", "DECAY_STEPS", ""),
        ):
            if field in _FIELDS[self.name] and getattr(self, field) is None:
                raise ValueError(
                    f"The {self.name!r} schedule needs ScheduleConfig.{field}: with the files of "
                    f"gin/optim, set {macro}{hint}."
                )
        self._check_lengths()

    def _check_lengths(self):
        rates = (self.learning_rate, self.final_learning_rate or 0)
        if not all(0 <= rate < math.inf for rate in rates):
            raise ValueError(f"{self}: learning rates must be numbers that are not negative.")
        if self.warmup_steps < 0:
            raise ValueError(f"{self}: warmup_steps must not be negative.")
        if self.timescale_steps is not None and self.timescale_steps < 1:
            raise ValueError(f"{self}: timescale_steps must be at least 1.")
        if self.decay_steps is not None and self.decay_steps < 1:
            raise ValueError(f"{self}: decay_steps must be at least 1.")
        if self.total_steps is not None:
            if self.total_steps < 1:
                raise ValueError(f"{self}: total_steps must be at least 1.")
            parts = {"warmup_steps": self.warmup_steps, "decay_steps": self.decay_steps or 0}
            told = {name: steps for name, steps in parts.items() if steps}
            if self.total_steps < sum(parts.values()):
                raise ValueError(
                    f"ScheduleConfig.total_steps = {self.total_steps} is shorter than "
                    f"{' and '.join(f'{name} = {steps}' for name, steps in told.items())}: train "
                    f"longer or, with the files of gin/optim, set a smaller "
                    f"{' or '.join(name.upper() for name in told)}."
                )

    def __call__(self, step: jax.typing.ArrayLike) -> jax.Array:
        """Returns the learning rate of the update after `step` updates, a float32 scalar."""
        t = jnp.maximum(jnp.asarray(step, jnp.float32) - self.step_offset, 0)
        ramp = jnp.minimum(1.0, t / self.warmup_steps) if self.warmup_steps else 1.0
        return jnp.float32(ramp * self._after_warmup(t))

    def _after_warmup(self, t: jax.Array) -> jax.Array | float:
        peak, final = self.learning_rate, self.final_learning_rate or 0.0
        if self.name == "constant":
            return peak
        if self.name == "rsqrt":
            return peak / jnp.sqrt(jnp.maximum(t, self.timescale_steps or 10_000))
        assert self.total_steps is not None
        if self.name == "wsd":
            assert self.decay_steps is not None
            start, length = self.total_steps - self.decay_steps, self.decay_steps
        else:
            start, length = self.warmup_steps, max(self.total_steps - self.warmup_steps, 1)
        progress = jnp.clip((t - start) / length, 0, 1)
        if self.name == "cosine":
            return final + (peak - final) * 0.5 * (1 + jnp.cos(jnp.pi * progress))
        return final + (peak - final) * (1 - progress)
