"""From an `OptimizerConfig` and the parameters' logical axes to an `Optimizer`.

Every optimiser is the same chain: clip the gradients' global norm -> direction (Adafactor, Adam,
Lion or Muon) -> descend (learning rate by group, momentum, weight decay, sign).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Annotated, Any

import jax
import optax

from ul2tune import tree
from ul2tune.optim import groups
from ul2tune.optim.adafactor import AdafactorConfig, scale_by_adafactor
from ul2tune.optim.descent import Descent, descend, updates_done
from ul2tune.optim.directions import (
    AdamWConfig,
    LionConfig,
    MuonConfig,
    matrix_dims,
    muon_direction,
)
from ul2tune.optim.factoring import ROLES, Role
from ul2tune.optim.schedules import ScheduleConfig

_ALGORITHMS = {
    "adafactor": AdafactorConfig,
    "adamw": AdamWConfig,
    "lion": LionConfig,
    "muon": MuonConfig,
}


@dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    """Which parameters train, and how.

    Attributes:
      name: "adafactor", "adamw", "lion" or "muon".
      schedule: the learning rate of each update.
      adafactor: hyper-parameters if that is the `name`; so for the next three.
      adamw: see `adafactor`.
      lion: see `adafactor`.
      muon: see `adafactor`.
      max_grad_norm: clip the trainable gradients' global norm to this; None: no clipping. Wants a
        normalised loss (`LossConfig.normalizer`): the norm of a sum grows with the batch.
      weight_decay: decoupled decay; each update takes ``weight_decay * rate ** exponent`` of a
        parameter.
      weight_decay_lr_exponent: the exponent above: 1 as in AdamW, 0 for T5X's `weight_decay_rate`.
      groups: ordered table of (pattern over parameter paths, learning-rate multiplier); None or
        "freeze" as the multiplier freezes. Each parameter takes the first pattern matching its
        whole path; all must be covered (see `ul2tune.optim.groups`).
      decay_groups: table of (pattern, multiplier of `weight_decay`). None: matrices and
        embeddings decay; norms, biases, relative-position tables and single vectors do not.
    """

    name: Annotated[str, _ALGORITHMS] = "adafactor"
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    adafactor: AdafactorConfig = field(default_factory=AdafactorConfig)
    adamw: AdamWConfig = field(default_factory=AdamWConfig)
    lion: LionConfig = field(default_factory=LionConfig)
    muon: MuonConfig = field(default_factory=MuonConfig)
    max_grad_norm: float | None = None
    weight_decay: float = 0.0
    weight_decay_lr_exponent: float = 1.0
    groups: Sequence[tuple[str, float | str | None]] = ((".*", 1.0),)
    decay_groups: Sequence[tuple[str, float]] | None = None

    def __post_init__(self):
        if self.name not in _ALGORITHMS:
            raise ValueError(
                f"OptimizerConfig.name = {self.name!r} is unknown; use one of "
                f"{', '.join(_ALGORITHMS)}."
            )
        for name, kind in _ALGORITHMS.items():
            if name != self.name and getattr(self, name) != kind():
                raise ValueError(
                    f"OptimizerConfig.{name} = {getattr(self, name)} would be ignored, as the "
                    f"optimiser is {self.name!r}; remove it or set OptimizerConfig.name = {name!r}."
                )
        if self.max_grad_norm is not None and not self.max_grad_norm > 0:
            raise ValueError(
                f"OptimizerConfig.max_grad_norm = {self.max_grad_norm} must be positive; "
                f"None turns clipping off."
            )
        if not 0 <= self.weight_decay < math.inf:
            raise ValueError(
                f"OptimizerConfig.weight_decay = {self.weight_decay} must be a number of at least "
                f"0; 0 turns it off."
            )
        if self.weight_decay == 0:
            for name, unset in (("decay_groups", None), ("weight_decay_lr_exponent", 1.0)):
                if (value := getattr(self, name)) != unset:
                    raise ValueError(
                        f"OptimizerConfig.{name} = {value} would be ignored, as weight_decay is 0; "
                        f"set weight_decay or remove {name}."
                    )


@dataclass(frozen=True, kw_only=True)
class GroupRow:
    """One line of the start table: the parameters one entry of `OptimizerConfig.groups` decides.

    Attributes:
      pattern: the entry's pattern.
      lr_multiplier: its multiplier; None means frozen.
      num_parameters: elements of their arrays.
      num_decayed: elements among them that decay.
      algorithm: what moves them, e.g. "adafactor" or "muon (3), adam (2)" with numbers of arrays.
    """

    pattern: str
    lr_multiplier: float | None
    num_parameters: int
    num_decayed: int
    algorithm: str


@dataclass(frozen=True, kw_only=True, eq=False)  # compared by identity: hashable under `jax.jit`
class Optimizer:
    """What the training step needs.

    Attributes:
      tx: the transformation; its trees hold the trainable parameters only.
      schedule: updates done -> learning rate, before the groups' multipliers.
      trainable: tree of bools like the parameters. Gradients of the others need not exist:
        differentiate with respect to `tree.partition(params, trainable)[0]` alone.
      rows: the groups, in the order of `OptimizerConfig.groups`.
    """

    tx: optax.GradientTransformation
    schedule: ScheduleConfig
    trainable: Mapping[str, Any]
    rows: tuple[GroupRow, ...]

    def learning_rate(self, opt_state: Any) -> jax.Array:
        """The rate of the next update of this optimiser state."""
        return self.schedule(updates_done(opt_state))


def make(
    config: OptimizerConfig, params: Mapping[str, Any], param_axes: Mapping[str, Any]
) -> Optimizer:
    """Builds the optimiser for a parameter tree.

    Args:
      config: the recipe.
      params: all parameters, trainable or not; may be abstract (`jax.ShapeDtypeStruct`).
      param_axes: the same tree of logical-axis tuples.

    Raises:
      ValueError: for group tables that do not cover the parameters or have idle patterns, for a
        multiplier that is not positive, or if nothing is left to train.
    """
    shapes = tree.flatten(params)
    axes = tree.flatten(param_axes)
    assert shapes.keys() == axes.keys(), sorted(shapes.keys() ^ axes.keys())
    assigned = groups.assign(config.groups, list(shapes), "OptimizerConfig.groups")
    multipliers = {path: _multiplier(*entry) for path, entry in assigned.items()}
    trainable = {path: value for path, value in multipliers.items() if value is not None}
    if not trainable:
        raise ValueError(
            f"OptimizerConfig.groups = {config.groups} freezes every parameter; "
            f"give at least one pattern a learning-rate multiplier."
        )
    decays = _weight_decay(config, axes)
    descent = Descent(
        schedule=config.schedule,
        lr_multiplier=trainable,
        weight_decay=decays,
        decay_lr_exponent=config.weight_decay_lr_exponent,
        momentum=config.adafactor.momentum,
    )
    stages = [_direction(config, param_axes), descend(descent)]
    if config.max_grad_norm is not None:
        stages.insert(0, optax.clip_by_global_norm(config.max_grad_norm))
    sizes = {path: (int(shape.size), bool(decays[path])) for path, shape in shapes.items()}
    return Optimizer(
        tx=optax.chain(*stages),
        schedule=config.schedule,
        trainable=tree.unflatten({path: path in trainable for path in shapes}),
        rows=_rows(config, assigned, sizes, axes),
    )


def _direction(config: OptimizerConfig, axes: Mapping[str, Any]) -> optax.GradientTransformation:
    if config.name == "adafactor":
        return scale_by_adafactor(config.adafactor, axes)
    if config.name == "adamw":
        return optax.scale_by_adam(**asdict(config.adamw))
    if config.name == "lion":
        return optax.scale_by_lion(**asdict(config.lion))
    return muon_direction(config.muon, axes)


def _multiplier(pattern: str, value: float | str | None) -> float | None:
    if value is None or value == groups.FREEZE:
        return None
    if isinstance(value, str) or not 0 < value < math.inf:
        raise ValueError(
            f"OptimizerConfig.groups gives {pattern!r} the learning-rate multiplier {value!r}; it "
            f"must be a positive number, or None or 'freeze' to freeze."
        )
    return float(value)


def _weight_decay(config: OptimizerConfig, axes: Mapping[str, Any]) -> dict[str, float]:
    """Weight decay of each parameter by path."""
    if config.decay_groups is None:
        return {path: config.weight_decay * _decays_by_default(axes[path]) for path in axes}
    table = groups.assign(config.decay_groups, list(axes), "OptimizerConfig.decay_groups")
    return {path: config.weight_decay * _decay_multiplier(*entry) for path, entry in table.items()}


def _decay_multiplier(pattern: str, value: float) -> float:
    if not isinstance(value, int | float) or not 0 <= value < math.inf:
        raise ValueError(
            f"OptimizerConfig.decay_groups gives {pattern!r} the multiplier {value!r} of the "
            f"weight decay; it must be a number of at least 0."
        )
    return float(value)


def _decays_by_default(axes: Sequence[str | None]) -> bool:
    """Whether a parameter decays without `decay_groups`: matrices and embeddings do, which have the
    model's width and another axis per layer. Norms' scales, biases and tables of relative positions
    do not.
    """
    roles = [ROLES.get(axis) for axis in axes]
    roles = [role for role in roles if role is not Role.BATCH]
    return len(roles) > 1 and Role.ROW in roles


def _rows(
    config: OptimizerConfig,
    assigned: Mapping[str, tuple[str, Any]],
    sizes: Mapping[str, tuple[int, bool]],
    axes: Mapping[str, Any],
) -> tuple[GroupRow, ...]:
    rows = []
    for pattern, value in config.groups:
        paths = [path for path, (chosen, _) in assigned.items() if chosen == pattern]
        multiplier = _multiplier(pattern, value)
        algorithm = "frozen" if multiplier is None else config.name
        if algorithm == "muon":
            matrices = sum(matrix_dims(path, axes[path]) is not None for path in paths)
            algorithm = f"muon ({matrices}), adam ({len(paths) - matrices})"
        rows.append(
            GroupRow(
                pattern=pattern,
                lr_multiplier=multiplier,
                num_parameters=sum(sizes[path][0] for path in paths),
                num_decayed=sum(size for size, decays in (sizes[p] for p in paths) if decays)
                if multiplier is not None
                else 0,
                algorithm=algorithm,
            )
        )
    return tuple(rows)
