"""The training state: created sharded in one jitted call; taken apart for checkpoints."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from ul2tune import sharding, tree
from ul2tune.models import base
from ul2tune.optim.optimizer import Optimizer
from ul2tune.optim.state_sharding import state_shardings
from ul2tune.training.step import init_key
from ul2tune.types import InitFn, Tree


@dataclass(frozen=True, kw_only=True)
class StateSpec:
    """Shapes, dtypes and shardings of everything, before anything is computed.

    Attributes:
      state: ``{"step", "params", "opt_state"}`` of `jax.ShapeDtypeStruct`, and ``"ema"`` if there
        is an average of the parameters; trainable parameters only.
      frozen: the other parameters.
    """

    state: dict[str, Any]
    frozen: dict[str, Any]

    @property
    def params(self) -> dict[str, Any]:
        """All parameters."""
        return tree.merge(self.state["params"], self.frozen)

    @property
    def saved(self) -> dict[str, Any]:
        """The structure of a checkpoint: parameters whole, whatever is frozen."""
        return join(self.state, self.frozen)


def join(state: Tree, frozen: Tree) -> dict[str, Any]:
    """State + frozen parameters -> what is saved."""
    return {**state, "params": tree.merge(state["params"], frozen)}


def split(saved: Tree, spec: StateSpec) -> tuple[dict[str, Any], dict[str, Any]]:
    """The inverse of :func:`join`."""
    trainable = tree.flatten(spec.state["params"])
    mask = tree.map_with_path(lambda path, _: path in trainable, saved["params"])
    params, frozen = tree.partition(saved["params"], mask)
    return {**saved, "params": params}, frozen


def averaged(state: Tree, frozen: Tree) -> dict[str, Any]:
    """All parameters, those that train by their average."""
    return tree.merge(state["ema"], frozen)


def specify(
    model: base.ModelConfig, optimizer: Optimizer, mesh: Mesh, *, ema: bool = False
) -> StateSpec:
    """Lays the state out over the mesh; an average of the parameters is laid out like them.

    Raises:
      ValueError: if a parameter is not divisible by its mesh axes.
    """
    params = base.abstract_params(model)
    shardings = sharding.param_shardings(params, base.param_axes(model), mesh)
    trainable, frozen = tree.partition(params, optimizer.trainable)
    trainable_shardings, frozen_shardings = tree.partition(shardings, optimizer.trainable)
    opt_state = jax.eval_shape(optimizer.tx.init, trainable)
    opt_shardings = state_shardings(opt_state, trainable, trainable_shardings, mesh)
    step = jax.ShapeDtypeStruct((), jnp.int32, sharding=sharding.replicated(mesh))
    state = {
        "step": step,
        "params": sharding.with_shardings(trainable, trainable_shardings),
        "opt_state": sharding.with_shardings(opt_state, opt_shardings),
    }
    if ema:
        state["ema"] = state["params"]
    return StateSpec(state=state, frozen=sharding.with_shardings(frozen, frozen_shardings))


def create(
    spec: StateSpec,
    model: base.ModelConfig,
    optimizer: Optimizer,
    seed: int,
    init: InitFn | None,
    first_step: int,
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Returns the first state and the frozen parameters, on their devices.

    Parameters come from `init`, or are drawn from `seed`; in either case one jitted function with
    output shardings builds everything, so no device ever holds more than its share, and those of
    `init` are not copied.
    """

    how = {"optimizer": optimizer, "first_step": first_step, "ema": "ema" in spec.state}
    out_shardings = jax.tree.map(lambda x: x.sharding, (spec.state, spec.frozen))
    if init is None:
        fresh = jax.jit(_draw, static_argnames=("model", *how), out_shardings=out_shardings)
        return fresh(init_key(seed), model=model, **how)
    given = jax.jit(_build, static_argnames=(*how,), out_shardings=out_shardings, donate_argnums=0)
    return given(init(spec.params), **how)


def _draw(key: jax.Array, *, model: base.ModelConfig, **how: Any) -> tuple[dict[str, Any], Tree]:
    return _build(base.init_params(model, key), **how)


def _build(
    params: Tree, *, optimizer: Optimizer, first_step: int, ema: bool
) -> tuple[dict[str, Any], Tree]:
    """The first state of these parameters, and those among them that are frozen."""
    trainable, frozen = tree.partition(params, optimizer.trainable)
    opt_state = optimizer.tx.init(trainable)
    state = {"step": jnp.int32(first_step), "params": trainable, "opt_state": opt_state}
    if ema:
        # A copy: parameters and average are both donated to the step, which one array cannot be
        # twice.
        state["ema"] = jax.tree.map(jnp.copy, trainable)
    return state, frozen


def bytes_per_device(abstract: Tree) -> int:
    """Bytes of one device's shards."""
    leaves = jax.tree.leaves(abstract)
    shards = [(leaf.sharding.shard_shape(leaf.shape), leaf.dtype) for leaf in leaves]
    return tree.num_bytes([jax.ShapeDtypeStruct(shape, dtype) for shape, dtype in shards])
