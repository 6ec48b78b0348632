"""Update directions by optax: AdamW, Lion, and Muon for matrices with Adam for the rest."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import optax

from ul2tune import tree
from ul2tune.optim.factoring import Role, roles

# Tables looked up by row: their gradients touch single rows, so orthogonalising them makes no sense
# (Jordan et al. 2024); by custom the output head is treated like the input embedding.
_LOOKUP_AXES = ("vocab", "positions", "relpos_buckets")


@dataclass(frozen=True, kw_only=True)
class AdamWConfig:
    """Loshchilov & Hutter 2019 (arXiv:1711.05101). The decay is `OptimizerConfig.weight_decay`.

    Attributes:
      b1: decay of the first moment.
      b2: decay of the second moment.
      eps: added to the square root of the second moment.
    """

    b1: float = 0.9
    b2: float = 0.999
    eps: float = 1e-8

    def __post_init__(self):
        _check_decays(self, "b1", "b2")
        _check_positive(self, "eps")


@dataclass(frozen=True, kw_only=True)
class LionConfig:
    """Chen et al. 2023 (arXiv:2302.06675). Wants a 3-10x smaller rate and larger decay than AdamW.

    Attributes:
      b1: share of the momentum in the direction whose sign is taken.
      b2: decay of the momentum.
    """

    b1: float = 0.9
    b2: float = 0.99

    def __post_init__(self):
        _check_decays(self, "b1", "b2")


@dataclass(frozen=True, kw_only=True)
class MuonConfig:
    """Jordan et al. 2024; scaled as in Liu et al. 2025 (arXiv:2502.16982).

    Matrices (every layer's on its own, heads joined) are orthogonalised; embeddings, the output
    head, norms and bias tables go by Adam with the same learning rate, which `consistent_rms` makes
    fit for both.

    Attributes:
      beta: decay of the momentum of matrices.
      newton_schulz_steps: iterations of the orthogonalisation.
      nesterov: look ahead along the momentum of matrices. DIVERGES: `optax.contrib.muon` does so in
        Adam too; here Adam is plain, as in Jordan's own code.
      consistent_rms: RMS of an orthogonalised update, whatever the matrix's shape (0.2 matches
        AdamW's); None scales by ``sqrt(max(1, fan_out / fan_in))`` instead.
      adam_b1: as in :class:`AdamWConfig`, for everything that is no matrix.
      adam_b2: likewise.
      adam_eps: likewise.
    """

    beta: float = 0.95
    newton_schulz_steps: int = 5
    nesterov: bool = True
    consistent_rms: float | None = 0.2
    adam_b1: float = 0.9
    adam_b2: float = 0.999
    adam_eps: float = 1e-8

    def __post_init__(self):
        _check_decays(self, "beta", "adam_b1", "adam_b2")
        _check_positive(self, "newton_schulz_steps", "adam_eps")
        if self.consistent_rms is not None:
            _check_positive(self, "consistent_rms")


def _check_decays(config: object, *names: str) -> None:
    for name in names:
        if not 0.0 <= (value := getattr(config, name)) < 1.0:
            raise ValueError(f"{type(config).__name__}.{name} = {value} is not in [0, 1).")


def _check_positive(config: object, *names: str) -> None:
    for name in names:
        if not 0 < (value := getattr(config, name)) < math.inf:
            raise ValueError(f"{type(config).__name__}.{name} = {value} must be positive.")


def matrix_dims(path: str, axes: Sequence[str | None]) -> tuple[tuple[int, ...], ...] | None:
    """The (input, output) dimensions of a parameter that acts as a matrix, else None.

    The side that comes first in memory is the input: kernels are [in, out], e.g. [N, D, H, A] has
    (1,), (2, 3) and [N, H, A, D] has (1, 2), (3,).
    """
    kinds = roles(path, axes)
    if Role.ROW not in kinds or any(axis in _LOOKUP_AXES for axis in axes):
        return None
    rows = tuple(dim for dim, kind in enumerate(kinds) if kind is Role.ROW)
    columns = tuple(dim for dim, kind in enumerate(kinds) if kind is Role.COLUMN)
    return tuple(sorted((rows, columns)))


def muon_direction(
    config: MuonConfig, param_axes: Mapping[str, Any]
) -> optax.GradientTransformation:
    """Muon for matrices, Adam for everything else.

    Args:
      config: hyper-parameters.
      param_axes: logical axes of every parameter; `init` and `update` may see a sub-tree.
    """
    dims = {path: matrix_dims(path, axes) for path, axes in tree.flatten(param_axes).items()}

    def labels(params):
        return tree.map_with_path(lambda path, _: "adam" if dims[path] is None else "muon", params)

    def dimension_numbers(params):
        # Leaves that are not Muon's arrive as empty nodes, which `tree.flatten` would count.
        def numbers(key_path, _):
            chosen = dims[tree.SEPARATOR.join(key.key for key in key_path)]
            assert chosen is not None, key_path
            return optax.contrib.MuonDimensionNumbers(*chosen)

        return jax.tree_util.tree_map_with_path(numbers, params)

    def rescale(updates, params=None):
        del params
        return jax.tree.map(
            lambda update, numbers: update * _shape_factor(update.shape, numbers, config),
            updates,
            dimension_numbers(updates),
        )

    muon = optax.chain(
        optax.contrib.scale_by_muon(
            ns_steps=config.newton_schulz_steps,
            beta=config.beta,
            nesterov=config.nesterov,
            weight_dimension_numbers=dimension_numbers,
        ),
        optax.stateless(rescale),
    )
    adam = optax.scale_by_adam(b1=config.adam_b1, b2=config.adam_b2, eps=config.adam_eps)
    return optax.partition({"muon": muon, "adam": adam}, labels)


def _shape_factor(shape: Sequence[int], numbers: Any, config: MuonConfig) -> float:
    """What an orthogonal update of this shape is multiplied by (see `consistent_rms`)."""
    fan_in = math.prod(shape[dim] for dim in numbers.reduction_axis)
    fan_out = math.prod(shape[dim] for dim in numbers.output_axis)
    if config.consistent_rms is None:
        return math.sqrt(max(1.0, fan_out / fan_in))
    # An orthogonal [in, out] matrix has RMS 1 / sqrt(max(in, out)).
    return math.sqrt(max(fan_in, fan_out)) * config.consistent_rms
