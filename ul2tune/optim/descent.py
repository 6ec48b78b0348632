"""The last stage of every optimiser: from a direction to a step (rate, momentum, decay, sign)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from ul2tune import tree
from ul2tune.optim.schedules import ScheduleConfig


@dataclass(frozen=True, kw_only=True)
class Descent:
    """How parameter ``p`` moves along an update direction ``u`` at learning rate ``r``::

        rate = r * lr_multiplier[path]
        m    = momentum * m + (1 - momentum) * rate * u
        p   -= m + weight_decay[path] * rate ** decay_lr_exponent * p

    Without momentum, m is ``rate * u``.

    Attributes:
      schedule: the learning rate of each update.
      lr_multiplier: by parameter path.
      weight_decay: by parameter path; 0 for none.
      decay_lr_exponent: 1 for AdamW's decay. T5X's Adafactor has `weight_decay_rate_lr_exponent`:
        0 here is its plain `weight_decay_rate`, and PaLM used 2.
      momentum: T5X's `beta1` of Adafactor, applied after the learning rate as there; None for none.
    """

    schedule: ScheduleConfig
    lr_multiplier: Mapping[str, float]
    weight_decay: Mapping[str, float]
    decay_lr_exponent: float = 1.0
    momentum: float | None = None


class DescentState(NamedTuple):
    """The number of updates done, and the momentum (`()` if there is none)."""

    count: jax.Array
    momentum: Any


def updates_done(opt_state: Any) -> jax.Array:
    """The number of updates that a state of `optimizer.make`'s chain has behind it, int32.

    The state counts by itself, independently of a run's steps: a run may start at its initial
    checkpoint's step with a new state, or at 0 with the checkpoint's. The count is that of
    :func:`descend`, the last stage of every optimiser.
    """
    return opt_state[-1].count


def descend(config: Descent) -> optax.GradientTransformation:
    """Turns update directions into what `optax.apply_updates` adds to the parameters.

    NUMERICS: float32 throughout; the result has the parameter's type.
    """

    def init(params):
        has_momentum = config.momentum is not None
        momentum = optax.tree.zeros_like(params, jnp.float32) if has_momentum else ()
        return DescentState(jnp.zeros((), jnp.int32), momentum)

    def update(updates, state, params=None):
        assert params is not None
        rate = config.schedule(state.count)
        steps = tree.map_with_path(lambda path, u: rate * config.lr_multiplier[path] * u, updates)
        momentum = state.momentum
        if config.momentum is not None:
            beta = config.momentum
            momentum = jax.tree.map(lambda m, u: beta * m + (1.0 - beta) * u, momentum, steps)
            steps = momentum

        def move(path, u, p):
            decay = config.weight_decay[path]
            if decay:
                path_rate = rate * config.lr_multiplier[path]
                u = u + decay * path_rate**config.decay_lr_exponent * p
            return (-u).astype(p.dtype)

        return tree.map_with_path(move, steps, params), DescentState(state.count + 1, momentum)

    return optax.GradientTransformation(init, update)
