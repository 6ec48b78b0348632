"""Linear combinations of checkpoints: averages, interpolations, task vectors. All are

    merged = sum_i coefficient_i * checkpoint_i,      sum_i coefficient_i = 1

- the average of k checkpoints: coefficients 1/k (Izmailov et al. 2018, arXiv:1803.05407);
- an interpolation: a and 1 - a (Wortsman et al. 2022, WiSE-FT, arXiv:2109.01903);
- task vectors, base + sum_i w_i * (checkpoint_i - base): w_i, and 1 - sum_i w_i for the base
  (Ilharco et al. 2023, arXiv:2212.04089).

One parameter after the other is read and written, so memory is a few times the largest parameter,
whatever the number and size of the checkpoints.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ul2tune.checkpoints import initialize
from ul2tune.checkpoints.stored import StoredArrays
from ul2tune.models.base import FREE_FIELDS

# Elements that are added at a time: temporary arrays stay small beside a parameter.
_BLOCK = 2**22
_TOLERANCE = 1e-6


@dataclass(frozen=True, kw_only=True)
class Term:
    """One checkpoint of a combination.

    Attributes:
      step_dir: the folder of one step.
      coefficient: what its parameters are multiplied by.
      ema: the average that its run kept, instead of the last parameters.
    """

    step_dir: Path
    coefficient: float
    ema: bool = False

    def to_json(self) -> dict[str, Any]:
        """For the record of what a merged checkpoint is made of."""
        return {"checkpoint": str(self.step_dir), "coefficient": self.coefficient, "ema": self.ema}


def combination(
    step_dirs: Sequence[Path],
    weights: Sequence[float] | None = None,
    base: Path | None = None,
    *,
    ema: bool = False,
) -> tuple[Term, ...]:
    """The terms of an average (no weights), an interpolation (weights that sum to 1), or of task
    vectors (with `base`; weights are 1 each unless given). The base comes first.

    Raises:
      ValueError: if the numbers of weights and checkpoints differ, or weights without a base do not
        sum to 1.
    """
    count = len(step_dirs)
    if not count:
        raise ValueError("There is no checkpoint to merge.")
    if weights is None:
        weights = [1.0 / count if base is None else 1.0] * count
    if len(weights) != count:
        raise ValueError(f"{len(weights)} weights for {count} checkpoints: give one for each.")
    if not np.isfinite(weights).all():
        raise ValueError(f"Weights must be finite, got {list(weights)}.")
    rest = 1.0 - sum(weights)
    if base is None and abs(rest) > _TOLERANCE:
        raise ValueError(
            f"The weights {list(weights)} sum to {sum(weights):g}, not 1: the result would be a "
            f"scaled model. To add differences to a model, name it as the base."
        )
    terms = [Term(step_dir=d, coefficient=w, ema=ema) for d, w in zip(step_dirs, weights)]
    if base is None:
        return tuple(terms)
    # The base is a model as it is, such as a pretrained one; only what was tuned has an average.
    return (Term(step_dir=base, coefficient=rest), *terms)


class Merge:
    """A checked combination, ready to be read.

    Attributes:
      terms: checkpoints and coefficients.
      shapes: parameter path -> shape, the same in all of them.
    """

    def __init__(self, terms: Sequence[Term]):
        """Opens all checkpoints and compares them; reads no arrays.

        Raises:
          ValueError: if one holds other parameters, shapes, or another model than the first.
        """
        self.terms = tuple(terms)
        self._arrays = [StoredArrays(term.step_dir) for term in self.terms]
        shapes = [_parameters(arrays) for arrays in self._arrays]
        self.shapes = shapes[0]
        first = self.terms[0].step_dir
        for term, arrays, found in zip(self.terms[1:], self._arrays[1:], shapes[1:]):
            _check_same(first, self.shapes, term.step_dir, found)
            _check_model(first, self._arrays[0].meta, term.step_dir, arrays.meta)
        self._stored = [
            initialize.stored_paths(term.step_dir, self.shapes, ema=term.ema) for term in self.terms
        ]

    def arrays(self) -> Iterator[tuple[str, np.ndarray]]:
        """Every parameter by path, merged: float32.

        Raises:
          ValueError: if a checkpoint holds a NaN or an infinity, or they do not fit into float32
            after merging.
          CorruptCheckpointError: if a checkpoint is damaged.
        """
        for path in self.shapes:
            yield path, self._merged(path)

    def _merged(self, path: str) -> np.ndarray:
        shape = self.shapes[path]
        total = np.zeros(shape, np.float32)
        for term, arrays, stored in zip(self.terms, self._arrays, self._stored):
            value = arrays.read(stored[path], shape, np.float32)
            _add(total.reshape(-1), value.reshape(-1), term.coefficient, f"{term.step_dir}: {path}")
        return total


def _add(total: np.ndarray, value: np.ndarray, coefficient: float, where: str) -> None:
    """``total += coefficient * value``, in place.

    NUMERICS: products and sums are float32, as parameters are; n terms add at most n roundings, and
    a coefficient of 1 beside zeros gives the checkpoint back bit for bit.
    """
    for begin in range(0, total.size, _BLOCK):
        part = slice(begin, begin + _BLOCK)
        if not np.isfinite(value[part]).all():
            raise ValueError(f"{where} holds a NaN or an infinity: these are no trained weights.")
        with np.errstate(over="ignore", invalid="ignore"):
            total[part] += np.float32(coefficient) * value[part]
        if not np.isfinite(total[part]).all():
            raise ValueError(f"{where} times {coefficient:g} is beyond float32; use less weight.")


def _parameters(arrays: StoredArrays) -> dict[str, tuple[int, ...]]:
    prefix = f"{initialize.PARAMS}/"
    return {p.removeprefix(prefix): s for p, s in arrays.shapes.items() if p.startswith(prefix)}


def _check_same(first: Path, shapes: dict[str, Any], other: Path, found: dict[str, Any]) -> None:
    for here, there, a, b in ((first, other, shapes, found), (other, first, found, shapes)):
        if lacking := sorted(a.keys() - b.keys()):
            raise ValueError(
                f"{here} holds the parameter {lacking[0]!r} and {there} does not ({len(lacking)} "
                f"such parameters): only checkpoints of one model can be merged."
            )
    for path, shape in shapes.items():
        if found[path] != shape:
            raise ValueError(
                f"{path!r} has shape {list(shape)} in {first} and {list(found[path])} in {other}: "
                f"only checkpoints of one model can be merged."
            )


def _check_model(first: Path, meta: dict[str, Any], other: Path, found: dict[str, Any]) -> None:
    """Equal shapes are not enough: another activation makes another function of them."""
    ours, theirs = (m.get("config", {}).get("model", {}) for m in (meta, found))
    for field in sorted((ours.keys() | theirs.keys()) - FREE_FIELDS):
        if ours.get(field) != theirs.get(field):
            raise ValueError(
                f"{first} was trained with {field} = {ours.get(field)!r}, {other} with "
                f"{theirs.get(field)!r}: only checkpoints of one model can be merged."
            )
