"""Which dimensions of a parameter are rows and columns of a matrix, from its logical axes.

Adafactor factors second moments over rows and columns, Muon orthogonalises matrices; both need to
see a kernel [N, D, H, A] as N matrices [D, H * A]. Logical axes say how.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Sequence
from dataclasses import dataclass


class Role(enum.Enum):
    """What a dimension is to its matrix. BATCH dimensions number matrices (stacked layers)."""

    NONE = "none"
    BATCH = "batch"
    ROW = "row"
    COLUMN = "column"


# T5X's standard logical factor rules: our axis names (sharding.RULES) and those of its own T5s.
ROLES = {
    "embed": Role.ROW,
    "vocab": Role.COLUMN,
    "mlp": Role.COLUMN,
    "heads": Role.COLUMN,
    "kv_heads": Role.COLUMN,
    "kv": Role.COLUMN,
    "joined_kv": Role.COLUMN,
    "q_wi_fused": Role.COLUMN,
    "o_wo_fused": Role.COLUMN,
    "multiquery_heads": Role.COLUMN,
    "kv_fused": Role.COLUMN,
    "mlp_activations": Role.COLUMN,
    "relpos_buckets": Role.NONE,
    "positions": Role.NONE,
    "projection": Role.NONE,
    "layer_norm": Role.NONE,
    "layer_norm_scale": Role.NONE,
    "layers": Role.BATCH,
    "stack": Role.BATCH,
    None: Role.NONE,
}


def roles(path: str, axes: Sequence[str | None]) -> tuple[Role, ...]:
    """The role of each dimension. Without both rows and columns there is no matrix: all NONE.

    Raises:
      ValueError: for an axis without a rule, or a matrix with a dimension that is neither.
    """
    for axis in axes:
        if axis not in ROLES:
            raise ValueError(
                f"Parameter {path!r} has the logical axis {axis!r}, which optim.factoring.ROLES "
                f"does not list; it knows {', '.join(str(name) for name in ROLES)}."
            )
    result = tuple(ROLES[axis] for axis in axes)
    if Role.ROW in result and Role.COLUMN in result:
        if Role.NONE in result:
            raise ValueError(
                f"Parameter {path!r} with axes {tuple(axes)} has rows and columns but also "
                f"dimension {result.index(Role.NONE)}, which is neither, so it cannot be factored."
            )
        return result
    return tuple(Role.BATCH if role is Role.BATCH else Role.NONE for role in result)


@dataclass(frozen=True, kw_only=True)
class Factoring:
    """How Adafactor treats one array.

    Attributes:
      mean_dims: all dimensions of one layer: what root mean squares average over.
      row_dims: the dimensions `v_row` keeps (besides the batch ones); empty if not factored.
      column_dims: the dimensions `v_col` keeps; empty if not factored.
    """

    mean_dims: tuple[int, ...]
    row_dims: tuple[int, ...] = ()
    column_dims: tuple[int, ...] = ()

    @property
    def is_factored(self) -> bool:
        return bool(self.row_dims)


def factoring(
    path: str,
    shape: Sequence[int],
    axes: Sequence[str | None],
    *,
    min_dim_size: int,
    stacked_as: str,
) -> Factoring:
    """Chooses the factored dimensions as T5X does.

    An array that is not stacked follows T5X to the letter: rank 2 or less by size alone (factored
    if both dimensions reach `min_dim_size`; the larger one is the column, the first one the row if
    they are equal), rank 3 or more by its axes, whatever its size, rows and columns jointly.

    A stack of layers (an axis "layers") never averages over layers. T5X writes the same model in
    two layouts which it factors differently below `min_dim_size`, and `stacked_as` says whose rule
    our stacked arrays follow:

      "unscanned": each layer is a matrix of its own with joined heads, as in `layers_3/attention/
        query/kernel` [D, H * A] (T5 1.0, 1.1, mT5, ByT5, Flan-T5): the rule for rank 2, applied to
        each layer's matrix. A stack trains exactly as its layers would one by one.
      "scanned": one array [D, N, H, A] (scalable_t5, umT5): by axes, whatever the size.

    From 128 on (T5's `min_dim_size`) there is no difference.
    """
    kinds = roles(path, axes)
    assert len(kinds) == len(shape), (path, shape, axes)
    inner = tuple(dim for dim, kind in enumerate(kinds) if kind is not Role.BATCH)
    is_stacked = len(inner) < len(shape)
    rows = tuple(dim for dim in inner if kinds[dim] is Role.ROW)
    columns = tuple(dim for dim in inner if kinds[dim] is Role.COLUMN)
    if (is_stacked and stacked_as == "scanned") or (not is_stacked and len(inner) > 2):
        return Factoring(mean_dims=inner, row_dims=rows, column_dims=columns)
    if len(inner) == 2:
        rows, columns = (inner[0],), (inner[1],)
    sides = [math.prod(shape[dim] for dim in dims) for dims in (rows, columns)]
    if not rows or not columns or min(sides) < min_dim_size:
        return Factoring(mean_dims=inner)
    # Larger side = columns; between equals the side that comes first in memory is the row.
    if (sides[0], rows) > (sides[1], columns):
        rows, columns = columns, rows
    return Factoring(mean_dims=inner, row_dims=rows, column_dims=columns)
