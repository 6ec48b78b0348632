"""Running a stack of layers: as a loop or inline, keeping or recomputing what they computed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax

# Name (`jax.ad_checkpoint.checkpoint_name`) of what a memory-saving attention keeps for its
# backward pass: about as much as one product with weights, and far dearer to compute again.
ATTENTION = "attention"


def _products_and_attention(primitive: Any, *inputs: Any, **params: Any) -> bool:
    """Whether to save this result: of a product with weights, or of a fused attention."""
    policies = jax.checkpoint_policies
    return (
        policies.dots_with_no_batch_dims_saveable(primitive, *inputs, **params)
        or policies.save_only_these_names(ATTENTION)(primitive, *inputs, **params)
        # cuDNN's kernel: its result and the normaliser that its backward pass wants.
        or primitive.name.startswith("dot_product_attention_fwd")
    )


# What the backward pass finds saved per layer; it computes the rest again.
REMAT = {
    "none": jax.checkpoint_policies.everything_saveable,
    "dots": _products_and_attention,
    "full": jax.checkpoint_policies.nothing_saveable,
}


def fold(step: Callable[..., Any], carry: Any, layers: Any, *, scan: bool, remat: str) -> Any:
    """Folds ``carry = step(carry, *slices of layers)`` over the layers.

    Args:
      step: one layer.
      carry: what goes through all layers.
      layers: a tuple of pytrees whose leaves have a leading layer axis.
      scan: one compiled body looped over the layers, or all layers inline.
      remat: key of :data:`REMAT`.
    """
    if remat != "none":
        # A loop's body is not merged with the forward loop's, so nothing has to prevent it.
        step = jax.checkpoint(step, policy=REMAT[remat], prevent_cse=not scan)
    if scan:
        return jax.lax.scan(lambda carry, x: (step(carry, *x), None), carry, layers)[0]
    leaves, treedef = jax.tree.flatten(layers)
    for slices in zip(*map(list, leaves)):
        carry = step(carry, *jax.tree.unflatten(treedef, slices))
    return carry
