"""Running a stack of layers: as a loop or inline, keeping or recomputing what they computed."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import Any

import jax
from flax import nnx

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
      layers: a tuple of pytrees whose leaves have a leading layer axis; the first may be
        :func:`unstacked`.
      scan: one compiled body looped over the layers, or all layers inline.
      remat: key of :data:`REMAT`.
    """
    if remat != "none":
        # A loop's body is not merged with the forward loop's, so nothing has to prevent it.
        step = jax.checkpoint(step, policy=REMAT[remat], prevent_cse=not scan)
    if scan:
        return jax.lax.scan(lambda carry, x: (step(carry, *x), None), carry, layers)[0]
    for slices in _slices(layers):
        carry = step(carry, *slices)
    return carry


def _slices(layers: Any) -> Iterator[Any]:
    stacks, *others = layers
    if isinstance(stacks, nnx.List):
        for n, layer in enumerate(stacks):
            yield layer, *jax.tree.map(lambda x_N, n=n: x_N[n], others)
        return
    leaves, treedef = jax.tree.flatten(layers)
    for slices in zip(*map(list, leaves)):
        yield jax.tree.unflatten(treedef, slices)


def unstacked(model: Any, path: str, *, scan: bool) -> Any:
    """Returns a copy of a model in which the layers at `path` lie apart, for :func:`fold`.

    XLA moves nothing out of a loop: inside one over tokens, every layer's parameters would be
    sliced out of the stack again for every token. Layers that are looped over (`scan`) stay in it.
    """
    if scan:
        return model
    model = nnx.merge(*nnx.split(model))
    *parents, name = path.split("/")
    owner = functools.reduce(getattr, parents, model)
    leaves, treedef = jax.tree.flatten(getattr(owner, name))
    apart = (jax.tree.unflatten(treedef, slices) for slices in zip(*map(list, leaves)))
    setattr(owner, name, nnx.List(apart))
    return model
