"""Running a stack of layers: as a loop or inline, keeping or recomputing what they computed."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import Any

import jax
from flax import nnx

# The `jax.ad_checkpoint.checkpoint_name` of what chunked attention keeps for its backward pass. It
# is as large as the result of one product with weights, and much more expensive to compute again.
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


# What is saved per layer for the backward pass, which computes the rest again.
REMAT = {
    "none": jax.checkpoint_policies.everything_saveable,
    "dots": _products_and_attention,
    "full": jax.checkpoint_policies.nothing_saveable,
}


def fold(stack: Any, step: Callable[..., Any], carry: Any, *per_layer: Any) -> Any:
    """Folds ``carry = step(carry, layer, *per_layer[n])`` over the layers of a stack.

    Args:
      stack: a module that holds them as `layers`, on a leading axis or :func:`unstacked`. Its
        `config` says how: one compiled body looped over them, or all of them inline
        (`scan_layers`); what is saved of each (`remat`).
      step: one layer.
      carry: what goes through all of them.
      per_layer: pytrees whose leaves have a leading layer axis.
    """
    scan, remat, layers = stack.config.scan_layers, stack.config.remat, (stack.layers, *per_layer)
    if remat != "none":
        # Inline, XLA would merge the recomputation with the forward pass again (common
        # subexpressions). The bodies of two loops it does not merge.
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


def unstacked(model: Any, path: str) -> Any:
    """Returns a copy of a model in which the layers at `path` lie apart, for :func:`fold`.

    In a loop over tokens XLA would slice every layer's parameters out of the stack again for each
    token, as it does not move that out of the loop. With `scan_layers` the layers are a loop
    themselves and stay stacked.
    """
    if model.config.scan_layers:
        return model
    model = nnx.merge(*nnx.split(model))
    *parents, name = path.split("/")
    owner = functools.reduce(getattr, parents, model)
    leaves, treedef = jax.tree.flatten(getattr(owner, name))
    apart = (jax.tree.unflatten(treedef, slices) for slices in zip(*map(list, leaves)))
    setattr(owner, name, nnx.List(apart))
    return model
