"""T5X's Adafactor state and ours: the same numbers, stacked differently, some with `v_row` and
`v_col` swapped.

T5X keeps ``state/param_states/<parameter>/{m, v, v_row, v_col}``: float32, unused ones (1,). Both
sides factor a matrix into rows and columns, but where sizes decide, which side is called the row
depends on the layout; the update is the same either way (`optim.adafactor`), so `v_row` and `v_col`
change places where the names differ. What cannot be carried over is a matrix that one side factors
and the other keeps whole.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from ul2tune.convert.mapping import Arrays
from ul2tune.convert.t5x.axes import LAYERS, Axes, factored, rearrange, shape, split, without
from ul2tune.convert.t5x.names import Weight

STATES = "state/param_states/"
# T5X's names. "m" is momentum.
MOMENTS = ("v_row", "v_col", "v", "m")
UNUSED = (1,)


class Plan(Protocol):
    """How our Adafactor treats one parameter: `optim.factoring.Factoring`."""

    @property
    def row_dims(self) -> tuple[int, ...]: ...

    @property
    def column_dims(self) -> tuple[int, ...]: ...


@dataclass(frozen=True, kw_only=True)
class AdafactorMoments:
    """Adafactor's state by our parameter paths, as `optim.adafactor.AdafactorState` has it.

    Attributes:
      step: updates done.
      v_row: see there; (1,) where not factored.
      v_col: see there.
      v: see there; (1,) where factored.
      momentum: T5X's `m`, if it has one.
    """

    step: int
    v_row: Mapping[str, np.ndarray]
    v_col: Mapping[str, np.ndarray]
    v: Mapping[str, np.ndarray]
    momentum: Mapping[str, np.ndarray] | None


def has_adafactor(tensors: Arrays) -> bool:
    """Whether the checkpoint holds an Adafactor state (released ones may hold none at all).

    Raises:
      ValueError: for the state of another optimiser.
    """
    states = sorted(name for name in tensors.names if name.startswith(STATES))
    other = [name for name in states if name.rpartition("/")[2] not in MOMENTS]
    if other:
        raise ValueError(
            f"The checkpoint holds the optimiser state {other[0]!r}, which is not T5X's Adafactor. "
            f"Only that can be carried over: import without the optimiser's state "
            f"(--no_optimizer_state)."
        )
    return bool(states)


def read(
    tensors: Arrays, table: Sequence[Weight], plans: Mapping[str, Plan], step: int
) -> AdafactorMoments:
    """Reads the whole state.

    Args:
      tensors: the checkpoint.
      table: its parameters.
      plans: how our optimiser factors each parameter, by path.
      step: updates done.

    Raises:
      ValueError: for missing, unused or misshapen arrays, and for a matrix that only one side
        factors.
    """
    wanted = {f"{STATES}{name}/{kind}" for w in table for name in w.names for kind in MOMENTS}
    present = {name for name in tensors.names if name.startswith(STATES)}
    if wanted != present:
        odd = min(wanted ^ present)
        raise ValueError(
            f"The optimiser's state {'lacks' if odd in wanted else 'has no use for'} {odd!r} "
            f"({len(wanted ^ present)} such arrays). Import without the optimiser's state "
            f"(--no_optimizer_state)."
        )
    found: dict[str, dict[str, np.ndarray]] = {kind: {} for kind in MOMENTS}
    for weight in table:
        for kind, array in _to_ours(tensors, weight, plans[weight.path]).items():
            found[kind][weight.path] = array
    momentum = {path: m for path, m in found["m"].items() if m.shape != UNUSED}
    if momentum and len(momentum) != len(table):
        raise ValueError("Only some parameters have momentum: not the state of one Adafactor.")
    return AdafactorMoments(
        step=step,
        v_row=found["v_row"],
        v_col=found["v_col"],
        v=found["v"],
        momentum=momentum or None,
    )


def _kept(weight: Weight, plan: Plan) -> tuple[Axes, Axes] | None:
    """The axes of our v_row and v_col, without layers where T5X has an array for each."""
    if not plan.row_dims:
        return None
    names = [[weight.axes[dim] for dim in dims] for dims in (plan.column_dims, plan.row_dims)]
    rows, columns = (without(weight.axes, dropped) for dropped in names)
    drop = (LAYERS,) if weight.per_layer else ()
    return without(rows, drop), without(columns, drop)


def _pairs(weight: Weight, plan: Plan, *, momentum: bool) -> dict[str, tuple[str, Axes, Axes]]:
    """Our moment -> (T5X's, its axes there, its axes here), of those that are in use."""
    ours, theirs = _kept(weight, plan), factored(weight.their_axes, weight.sizes)
    whole = without(weight.axes, (LAYERS,)) if weight.per_layer else weight.axes
    pairs = {"m": ("m", weight.their_axes, whole)} if momentum else {}
    if (ours is None) is not (theirs is None):
        here, there = ("whole" if rule is None else "factored" for rule in (ours, theirs))
        raise ValueError(
            f"Adafactor's second moments of {weight.path!r} are {here} here and {there} in T5X, so "
            f"they cannot be carried over. Set AdafactorConfig.stacked_as = 'scanned' for a "
            f"scanned model, 'unscanned' for any other, and min_dim_size_to_factor = 128, or leave "
            f"the optimiser's state out (--no_optimizer_state)."
        )
    if ours is None or theirs is None:
        return {**pairs, "v": ("v", weight.their_axes, whole)}
    names = ("v_row", "v_col")
    if sorted(split(theirs[0])) != sorted(ours[0]):
        names, theirs = names[::-1], theirs[::-1]
    assert sorted(split(theirs[0])) == sorted(ours[0]), (weight, theirs, ours)
    pairs["v_row"] = names[0], theirs[0], ours[0]
    pairs["v_col"] = names[1], theirs[1], ours[1]
    return pairs


def _to_ours(tensors: Arrays, weight: Weight, plan: Plan) -> dict[str, np.ndarray]:
    """Every moment of one of our parameters."""
    result: dict[str, np.ndarray] = {}
    momentum = tuple(tensors.shape(f"{STATES}{weight.names[0]}/m")) != UNUSED
    pairs = _pairs(weight, plan, momentum=momentum)
    for kind in MOMENTS:
        if kind not in pairs:
            result[kind] = np.zeros(UNUSED, np.float32)
            continue
        theirs, their_axes, our_axes = pairs[kind]
        layers = []
        for name in weight.names:
            array = tensors.read(f"{STATES}{name}/{theirs}").astype(np.float32)
            expected = shape(their_axes, weight.sizes)
            if array.shape != expected:
                raise ValueError(
                    f"{STATES}{name}/{theirs} has the shape {array.shape}; T5X's Adafactor has "
                    f"{expected} there. It was run with other rules: import without its state."
                )
            if not np.isfinite(array).all():
                raise ValueError(
                    f"{STATES}{name}/{theirs} holds a NaN or an infinity: the checkpoint is "
                    f"damaged, or its run had diverged. Import without the optimiser's state "
                    f"(--no_optimizer_state)."
                )
            layers.append(rearrange(array, their_axes, our_axes, weight.sizes))
        result[kind] = np.stack(layers) if weight.per_layer else layers[0]
    return result


def leaves(
    moments: AdafactorMoments, table: Sequence[Weight], plans: Mapping[str, Plan]
) -> Iterator[tuple[str, np.ndarray]]:
    """T5X's leaves (names and arrays) of our state: the inverse of :func:`read`.

    Raises:
      ValueError: for a matrix that only one side factors.
    """
    ours = {
        "v_row": moments.v_row,
        "v_col": moments.v_col,
        "v": moments.v,
        "m": moments.momentum or {},
    }
    for weight in table:
        pairs = _pairs(weight, plans[weight.path], momentum=moments.momentum is not None)
        by_theirs = {theirs: (kind, *axes) for kind, (theirs, *axes) in pairs.items()}
        for theirs in MOMENTS:
            if theirs not in by_theirs:
                for name in weight.names:
                    yield f"{STATES}{name}/{theirs}", np.zeros(UNUSED, np.float32)
                continue
            kind, their_axes, our_axes = by_theirs[theirs]
            array = np.asarray(ours[kind][weight.path])
            for n, name in enumerate(weight.names):
                one = array[n] if weight.per_layer else array
                one = rearrange(one, our_axes, their_axes, weight.sizes)
                yield f"{STATES}{name}/{theirs}", np.ascontiguousarray(one, np.float32)
