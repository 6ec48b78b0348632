"""T5's Adafactor as an optax transformation: factored moments, update clipping, parameter scale.

For a gradient G of one layer's matrix (means are over that layer only), update number t = 1, 2, …
and ``beta = 1 - (t - step_offset) ** -decay_rate``::

    v_row  = beta * v_row + (1 - beta) * mean_over_columns(G * G + epsilon1)
    v_col  = beta * v_col + (1 - beta) * mean_over_rows(G * G + epsilon1)
    y      = G * (v_row / mean(v_row)) ** -0.5 * v_col ** -0.5        # or G * v ** -0.5, unfactored
    y      = y / max(1, rms(y) / clipping_threshold)
    update = y * max(rms(parameter), epsilon2)

The learning rate, momentum and weight decay come after (`optim.descent`). References: Shazeer &
Stern 2018 (arXiv:1804.04235, algorithm 4 with the choices of its section 9) and T5X's
`adafactor.py`, whose results it reproduces (tests/optim/test_adafactor.py).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from ul2tune import tree
from ul2tune.optim.factoring import Factoring, factoring

STACKED_AS = ("unscanned", "scanned")


@dataclass(frozen=True, kw_only=True)
class AdafactorConfig:
    """Hyper-parameters, named as in T5X; the defaults are T5's.

    Attributes:
      decay_rate: exponent of the second moments' decay schedule.
      step_offset: updates not counted by that schedule: the count a carried-over optimiser state
        starts with, to forget the second moments of pretraining. A state made new needs none, and a
        run refuses to start with a larger one (`optim.clocks`).
      clipping_threshold: bound on the root mean square of an update before scaling; None: no bound.
      multiply_by_parameter_scale: make the learning rate relative to the parameter's RMS.
      momentum: decay of a running mean of the updates (T5X's `beta1`), learning rate included;
        None (T5): no momentum and no memory for it.
      factored: False keeps full second moments.
      min_dim_size_to_factor: matrices with a smaller side keep full second moments.
      stacked_as: "unscanned" or "scanned", see :func:`ul2tune.optim.factoring.factoring`.
      epsilon1: added to squared gradients.
      epsilon2: smallest parameter scale.
    """

    decay_rate: float = 0.8
    step_offset: int = 0
    clipping_threshold: float | None = 1.0
    multiply_by_parameter_scale: bool = True
    momentum: float | None = None
    factored: bool = True
    min_dim_size_to_factor: int = 128
    stacked_as: Annotated[str, STACKED_AS] = "unscanned"
    epsilon1: float = 1e-30
    epsilon2: float = 1e-3

    def __post_init__(self):
        if self.stacked_as not in STACKED_AS:
            raise ValueError(
                f"AdafactorConfig.stacked_as = {self.stacked_as!r} is unknown; use one of "
                f"{', '.join(STACKED_AS)}."
            )
        if not self.epsilon1 >= (least := float(jnp.finfo(jnp.float32).tiny)):
            raise ValueError(
                f"AdafactorConfig.epsilon1 = {self.epsilon1} must be at least {least:.2g}, or a "
                f"parameter without gradient becomes NaN; T5's is 1e-30."
            )
        if not 0 < self.decay_rate < math.inf:
            raise ValueError(
                f"AdafactorConfig.decay_rate = {self.decay_rate} must be positive; T5's is 0.8, "
                f"which Transformers writes as -0.8."
            )
        if not 0 <= self.epsilon2 < math.inf:
            raise ValueError(
                f"AdafactorConfig.epsilon2 = {self.epsilon2} must be a number of at least 0; T5's "
                f"is 1e-3."
            )
        if self.momentum is not None and not 0 <= self.momentum < 1:
            raise ValueError(
                f"AdafactorConfig.momentum = {self.momentum} is not in [0, 1); None turns it off."
            )
        if self.clipping_threshold is not None and not self.clipping_threshold > 0:
            raise ValueError(
                f"AdafactorConfig.clipping_threshold = {self.clipping_threshold} must be positive; "
                f"None turns it off."
            )

    def factoring(self, path: str, shape: Sequence[int], axes: Sequence[str | None]) -> Factoring:
        """How the parameter at `path` is factored."""
        chosen = factoring(
            path,
            shape,
            axes,
            min_dim_size=self.min_dim_size_to_factor,
            stacked_as=self.stacked_as,
        )
        if self.factored:
            return chosen
        # T5X has no rule for what is not factored, and then takes means over all dimensions.
        whole = self.stacked_as == "scanned"
        return Factoring(mean_dims=tuple(range(len(shape))) if whole else chosen.mean_dims)


class AdafactorState(NamedTuple):
    """Second moments, float32, in trees like the parameters'; of shape (1,) where unused."""

    count: jax.Array
    v_row: Any
    v_col: Any
    v: Any


def scale_by_adafactor(
    config: AdafactorConfig, param_axes: Mapping[str, Any]
) -> optax.GradientTransformation:
    """Turns gradients into Adafactor's updates, before learning rate and sign.

    Args:
      config: hyper-parameters.
      param_axes: logical axes of every parameter; the trees given to `init` and `update` may be
        sub-trees of it (only the trainable parameters).

    NUMERICS: everything is float32, whatever the gradients' type.
    """
    axes = tree.flatten(param_axes)

    def init(params):
        moments = tree.map_with_path(
            lambda path, p: _init(config.factoring(path, p.shape, axes[path]), p.shape), params
        )
        return AdafactorState(jnp.zeros((), jnp.int32), *_unzip(moments))

    def update(updates, state, params=None):
        if params is None:
            raise ValueError("Adafactor scales updates by the parameters: pass params to update().")
        count = state.count + 1
        # The first update after the offset has beta = 0 and so forgets the moments before it.
        t = jnp.maximum(count - config.step_offset, 1).astype(jnp.float32)
        beta = 1.0 - t**-config.decay_rate

        def one(path, gradient, param, *moments):
            plan = config.factoring(path, param.shape, axes[path])
            scaled, *moments = _precondition(gradient, _Moments(*moments), beta, plan, config)
            return scaled * _scale(param, plan, config), *moments

        results = tree.map_with_path(one, updates, params, state.v_row, state.v_col, state.v)
        scaled, *moments = _unzip(results)
        return scaled, AdafactorState(count, *moments)

    return optax.GradientTransformation(init, update)


class _Moments(NamedTuple):
    v_row: jax.Array
    v_col: jax.Array
    v: jax.Array


def _init(plan: Factoring, shape: Sequence[int]) -> _Moments:
    def zeros(dropped: Sequence[int]):
        return jnp.zeros([size for dim, size in enumerate(shape) if dim not in dropped])

    unused = jnp.zeros((1,))
    if plan.is_factored:
        return _Moments(zeros(plan.column_dims), zeros(plan.row_dims), unused)
    return _Moments(unused, unused, zeros(()))


def _precondition(
    gradient: jax.Array,
    moments: _Moments,
    beta: jax.Array,
    plan: Factoring,
    config: AdafactorConfig,
) -> tuple[jax.Array, ...]:
    """Returns the clipped update of one parameter and its new v_row, v_col and v."""
    gradient = gradient.astype(jnp.float32)
    squares = jnp.square(gradient) + config.epsilon1

    def decayed(old, new):
        return beta * old + (1.0 - beta) * new

    if plan.is_factored:
        row_dims, column_dims = plan.row_dims, plan.column_dims
        v_row = decayed(moments.v_row, jnp.mean(squares, axis=column_dims))
        v_col = decayed(moments.v_col, jnp.mean(squares, axis=row_dims))
        moments = _Moments(v_row, v_col, moments.v)
        rows = jnp.expand_dims(v_row, column_dims)
        shares = rows / jnp.mean(rows, axis=row_dims, keepdims=True)
        # NUMERICS: a row without gradient beside large ones has a share that underflows to 0, and
        # its update would be 0 * infinity.
        row_factor = jnp.maximum(shares, jnp.finfo(jnp.float32).tiny) ** -0.5
        update = gradient * row_factor * jnp.expand_dims(v_col, row_dims) ** -0.5
    else:
        moments = moments._replace(v=decayed(moments.v, squares))
        update = gradient * moments.v**-0.5
    if config.clipping_threshold is not None:
        update /= jnp.maximum(1.0, _rms(update, plan) / config.clipping_threshold)
    return update, *moments


def _scale(param: jax.Array, plan: Factoring, config: AdafactorConfig) -> jax.Array | float:
    if not config.multiply_by_parameter_scale:
        return 1.0
    return jnp.maximum(_rms(param.astype(jnp.float32), plan), config.epsilon2)


def _rms(x: jax.Array, plan: Factoring) -> jax.Array:
    """Root mean square of each layer, with the averaged dimensions kept as 1."""
    return jnp.sqrt(jnp.mean(jnp.square(x), axis=plan.mean_dims, keepdims=True))


def _unzip(results: Mapping[str, Any]) -> list[Any]:
    """A tree of equally long tuples -> a list of trees."""
    flat = tree.flatten(results)
    return [tree.unflatten(dict(zip(flat, column))) for column in zip(*flat.values())]
