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
from collections.abc import Callable, Hashable, Mapping
from typing import Any, ClassVar, Protocol

import jax
from flax import nnx

from ul2tune import tree
from ul2tune.models.decoder import DecoderConfig
from ul2tune.models.decoder_model import Decoder
from ul2tune.models.t5 import T5, T5Config
from ul2tune.models.t5gemma import T5GemmaConfig
from ul2tune.models.t5gemma_model import T5Gemma
from ul2tune.types import Tree

# Fields of a configuration that say how a model is computed: results agree but for rounding.
METHOD_FIELDS = frozenset({"remat", "scan_layers", "attention", "attention_chunk_tokens"})
# Those that do not change the function its parameters compute.
FREE_FIELDS = METHOD_FIELDS | {"dropout_rate", "attention_dropout_rate", "dtype"}


# The configuration of each family -> its module, made of the configuration and a key.
MODULES: Mapping[type, Callable[..., nnx.Module]] = {
    T5Config: T5,
    DecoderConfig: Decoder,
    T5GemmaConfig: T5Gemma,
}


class ModelConfig(Hashable, Protocol):
    """A frozen dataclass that describes a model, one of :data:`MODULES`.

    Attributes:
      LAYOUTS: members of `feed.config.LAYOUTS`: the batches that the module reads.
      vocab_size: rows of the embedding.
      dtype: of activations and products, "bfloat16" or "float32".
    """

    LAYOUTS: ClassVar[tuple[str, ...]]

    @property
    def vocab_size(self) -> int: ...

    @property
    def dtype(self) -> str: ...

    def check_row_lengths(self, first: int, second: int, /) -> None:
        """Raises ValueError if rows of such lengths (`FeedConfig.row_lengths`) are too long."""
        ...


def make(config: ModelConfig, key: jax.Array) -> Any:
    """Returns the freshly initialised module."""
    return MODULES[type(config)](config, key)


@functools.lru_cache(maxsize=64)
def _abstract(config: ModelConfig) -> tuple[nnx.GraphDef, nnx.State]:
    module = jax.eval_shape(lambda: make(config, jax.random.key(0)))
    graphdef, state = nnx.split(module)
    return graphdef, state


def init_params(config: ModelConfig, key: jax.Array) -> Tree:
    """Returns initial parameters, a nested dict of float32 arrays. Pure: jit it onto a mesh."""
    return nnx.to_pure_dict(nnx.split(make(config, key))[1])


def abstract_params(config: ModelConfig) -> Tree:
    """Returns the tree of :func:`init_params` as `jax.ShapeDtypeStruct`, computing nothing."""
    return nnx.to_pure_dict(_abstract(config)[1])


def param_axes(config: ModelConfig) -> Tree:
    """Returns the same tree with a tuple of logical axes (`ul2tune.sharding.RULES`) per leaf."""
    flat = nnx.to_flat_state(_abstract(config)[1])
    axes = {tree.SEPARATOR.join(map(str, path)): variable.axes for path, variable in flat}
    return tree.unflatten(axes)


def bind(config: ModelConfig, params: Tree) -> Any:
    """Returns the module with `params` in it; cheap, and usable inside any JAX transformation."""
    return nnx.merge(_abstract(config)[0], params)


def in_compute_dtype(config: ModelConfig, params: Tree) -> Tree:
    """Returns the parameters with their matrices in the compute dtype.

    Results stay the same, as every product casts its matrix anyway. This saves time where
    parameters are read many times, as in a loop over tokens, and memory where nothing is trained.
    (In training the float32 parameters stay beside the copy, which costs half the memory of a
    step's gradients.)
    """
    axes = tree.flatten(param_axes(config))

    def cast(path: str, param: jax.Array) -> jax.Array:
        is_matrix = "embed" in axes[path] and len({*axes[path]} - {"layers"}) > 1
        return param.astype(config.dtype) if is_matrix else param

    return tree.map_with_path(cast, params)


def matmul_precision(config: ModelConfig) -> contextlib.AbstractContextManager[None]:
    """The context in which this model's programs must be traced, forward and backward.

    NUMERICS: dtype "float32" means float32 products. By default TPUs round the operands of a
    float32 product to bfloat16, and NVIDIA GPUs to TF32. Products of bfloat16 operands are the same
    either way.
    """
    if config.dtype == "float32":
        return jax.default_matmul_precision("highest")
    return contextlib.nullcontext()


def compiler_options(config: ModelConfig) -> dict[str, bool]:
    """Options with which XLA compiles this model's programs, in addition to XLA_FLAGS.

    For every shape of product XLA:GPU compiles dozens of Triton kernels to choose from. In true
    float32 the demo's smallest model then takes more than 90 s to compile, and 10 s with cuBLAS
    alone (on an H200).
    """
    if config.dtype == "float32" and jax.default_backend() == "gpu":
        return {"xla_gpu_enable_triton_gemm": False}
    return {}
