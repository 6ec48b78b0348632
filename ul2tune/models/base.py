"""From a model configuration to plain pytrees and back: the only place that splits NNX modules.

Modules define the model; everything that transforms it (`jax.jit`, `jax.grad`, optimisers,
checkpoints, sharding) sees nested dicts of float32 arrays. `nnx.jit`, `nnx.grad` and
`nnx.Optimizer` are not used: they walk the module graph on every step.

    params = init_params(config, key)             # or jax.jit(..., out_shardings=...) around it
    hidden = bind(config, params).hidden(batch)   # inside jit, grad, remat, ...
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Hashable
from typing import Any, ClassVar, Protocol

import jax
import jax.numpy as jnp
from flax import nnx

from ul2tune import tree
from ul2tune.models import grouped
from ul2tune.sharding import constrain
from ul2tune.types import Tree


class ModelConfig(Hashable, Protocol):
    """A frozen dataclass that knows the module it describes.

    Attributes:
      LAYOUTS: members of `feed.config.LAYOUTS`: the batches that the module reads.
      dtype: of activations and products, "bfloat16" or "float32".
    """

    LAYOUTS: ClassVar[tuple[str, ...]]

    @property
    def dtype(self) -> str: ...

    def make(self, key: jax.Array) -> nnx.Module:
        """Returns the freshly initialised module."""
        ...


def build(config: ModelConfig, key: jax.Array) -> Any:
    """Returns the initialised module, on the default device and with no mesh needed."""
    return config.make(key)


@functools.lru_cache(maxsize=64)
def _abstract(config: ModelConfig) -> tuple[nnx.GraphDef, nnx.State]:
    module = jax.eval_shape(lambda: config.make(jax.random.key(0)))
    graphdef, state = nnx.split(module)
    return graphdef, state


def init_params(config: ModelConfig, key: jax.Array) -> Tree:
    """Returns initial parameters, a nested dict of float32 arrays. Pure: jit it onto a mesh."""
    return nnx.to_pure_dict(nnx.split(config.make(key))[1])


def abstract_params(config: ModelConfig) -> Tree:
    """Returns the tree of :func:`init_params` as `jax.ShapeDtypeStruct`, computing nothing."""
    return nnx.to_pure_dict(_abstract(config)[1])


def param_axes(config: ModelConfig) -> Tree:
    """Returns the same tree with a tuple of logical axes (`ul2tune.sharding.RULES`) per leaf."""
    flat = nnx.to_flat_state(_abstract(config)[1])
    axes = {tree.SEPARATOR.join(map(str, path)): variable.axes for path, variable in flat}
    return tree.unflatten(axes)


def look_up(table_VD: jax.Array, ids_BL: jax.Array, axis: str = "vocab") -> jax.Array:
    """Rows of an embedding, [B, L, D]; `axis` is the logical axis of its first dimension.

    The table is gathered over `fsdp` first: rows split along D would have to become rows split
    along B, and on some meshes XLA knows no better way than to replicate them.
    """
    return constrain(table_VD, axis, None)[ids_BL]


def logits(hidden: jax.Array, head_VD: jax.Array, softcap: float | None) -> jax.Array:
    """Float32 logits [..., V] of final states [..., D], in whose dtype the product is."""
    head_VD = head_VD.astype(hidden.dtype)
    product = jnp.einsum("...D,VD->...V", hidden, head_VD, preferred_element_type=jnp.float32)
    return grouped.cap(product, softcap)


def bind(config: ModelConfig, params: Tree) -> Any:
    """Returns the module with `params` in it; cheap, and usable inside any JAX transformation."""
    return nnx.merge(_abstract(config)[0], params)


def in_compute_dtype(config: ModelConfig, params: Tree) -> Tree:
    """Returns parameters whose matrices are in the compute dtype already.

    Results are the same: nothing else is ever computed of them. For what reads them again and
    again, as a loop over tokens does (beside float32 parameters the copy takes half of what a
    step's gradients take), and for less memory where nothing is trained.
    """

    axes = tree.flatten(param_axes(config))

    def cast(path: str, param: jax.Array) -> jax.Array:
        is_matrix = "embed" in axes[path] and len({*axes[path]} - {"layers"}) > 1
        return param.astype(config.dtype) if is_matrix else param

    return tree.map_with_path(cast, params)


def products(config: ModelConfig) -> contextlib.AbstractContextManager[None]:
    """The context in which this model's programs are traced, forward and backward.

    NUMERICS: "float32" is taken at its word. TPUs by default round the operands of a float32
    product to bfloat16, and NVIDIA GPUs to TF32. In bfloat16 operands are what they are, and the
    default is kept.
    """
    if config.dtype == "float32":
        return jax.default_matmul_precision("highest")
    return contextlib.nullcontext()


def compiler_options(config: ModelConfig) -> dict[str, bool]:
    """What XLA is told when it compiles this model's programs, beside its flags.

    For every shape of product XLA:GPU compiles dozens of Triton kernels to choose from. In true
    float32 the demo's smallest model took more than 90 s so, with cuBLAS alone 10 s (an H200).
    """
    if config.dtype == "float32" and jax.default_backend() == "gpu":
        return {"xla_gpu_enable_triton_gemm": False}
    return {}
