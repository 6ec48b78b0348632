"""One optimiser step, and one evaluation step, as pure functions.

Axes: B batch, L target length, M microbatches, P sources (tasks or denoisers) counted from 1, 0 for
  none.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from ul2tune import tree
from ul2tune.models import base
from ul2tune.optim.optimizer import Optimizer
from ul2tune.training.cross_entropy import LossOutput, cross_entropy
from ul2tune.training.loss import LossConfig, loss_weights
from ul2tune.types import Batch, Tree

# Name -> (sum, weight). They are added over microbatches, steps and hosts; the division comes last.
Metrics = dict[str, tuple[jax.Array, jax.Array]]
BY_SOURCE = "loss_by_source"


@dataclass(frozen=True, kw_only=True)
class StepConfig:
    """What a step is made of; everything here is static under `jax.jit`.

    Attributes:
      model: model configuration.
      loss: objective.
      optimizer: transformation of gradients into updates, and its schedule.
      num_microbatches: parts of the batch that are run one after the other.
      seed: of dropout.
      num_sources: how many sources `decoder_source_ids` may name.
      ema_decay: of the average of the parameters; None keeps none.
    """

    model: base.ModelConfig
    loss: LossConfig
    optimizer: Optimizer
    num_microbatches: int = 1
    seed: int = 0
    num_sources: int = 0
    ema_decay: float | None = None


def train_step(
    state: Tree, frozen: Tree, batch: Batch, config: StepConfig
) -> tuple[dict[str, Any], Metrics]:
    """Returns the state after one update and the metrics of the batch before it.

    Args:
      state: ``{"step": int32, "params": trainable parameters, "opt_state"}``, and ``"ema"`` if the
        configuration averages. Donate it.
      frozen: parameters that get no gradient.
      batch: global batch [B, ...].
      config: static configuration.
    """
    key = jax.random.fold_in(dropout_root(config.seed), state["step"])
    weights_BL, normalizer = loss_weights(batch, config.loss)

    def objective(params: Tree, index: jax.Array, part: Batch, weights_BL: jax.Array):
        dropout_key = jax.random.fold_in(key, index)
        output, metrics = forward(tree.merge(params, frozen), part, weights_BL, config, dropout_key)
        # The whole batch's normalizer: the sum of the parts' gradients is exact to the token.
        return jnp.sum(output.loss_BL) / normalizer, metrics

    def grads_of_part(index: jax.Array, part: Batch, weights_BL: jax.Array):
        return jax.grad(objective, has_aux=True)(state["params"], index, part, weights_BL)

    with base.matmul_precision(config.model):
        grads, metrics = accumulate(grads_of_part, config.num_microbatches, batch, weights_BL)
    updates, opt_state = config.optimizer.tx.update(grads, state["opt_state"], state["params"])
    params = jax.tree.map(jnp.add, state["params"], updates)
    one = jnp.ones(())
    metrics |= {
        "grad_norm": (tree.global_norm(grads), one),
        "update_norm": (tree.global_norm(updates), one),
        "param_norm": (tree.global_norm(params), one),
        "learning_rate": (config.optimizer.learning_rate(state["opt_state"]), one),
    }
    after = {"step": state["step"] + 1, "params": params, "opt_state": opt_state}
    if config.ema_decay is not None:
        after["ema"] = moving_average(state["ema"], params, config.ema_decay)
    return after, metrics


def moving_average(ema: Tree, params: Tree, decay: float) -> Tree:
    """Returns ``decay * ema + (1 - decay) * params``. The average starts as the initial parameters,
    so there is no bias to correct.

    NUMERICS: computed as ``ema + (1 - decay) * (params - ema)`` in float32: an average that equals
    the parameters stays exactly equal.
    """
    return jax.tree.map(lambda average, new: average + (1 - decay) * (new - average), ema, params)


def eval_step(params: Tree, batch: Batch, config: StepConfig) -> Metrics:
    """Metrics of one batch with all parameters, without dropout."""
    weights_BL, _ = loss_weights(batch, config.loss)
    with base.matmul_precision(config.model):
        return forward(params, batch, weights_BL, config, dropout_key=None)[1]


def dropout_root(seed: int) -> jax.Array:
    """The key all dropout keys are folded from; :func:`init_key` is its sibling."""
    return jax.random.fold_in(jax.random.key(seed), 1)


def init_key(seed: int) -> jax.Array:
    """The key of the initial parameters."""
    return jax.random.fold_in(jax.random.key(seed), 0)


def forward(
    params: Tree, batch: Batch, weights_BL: jax.Array, config: StepConfig, dropout_key: Any
) -> tuple[LossOutput, Metrics]:
    """Runs model and loss; the metrics are sums over the tokens of this batch."""
    model = base.bind(config.model, params)
    hidden_BLD = model.hidden(batch, dropout_key=dropout_key)
    targets_BL = batch["decoder_target_tokens"]
    output = cross_entropy(
        hidden_BLD, model.head_kernel(), targets_BL, weights_BL, config.loss, model.logit_softcap
    )
    return output, _token_metrics(output, batch, weights_BL, config.num_sources)


def _token_metrics(
    output: LossOutput, batch: Batch, weights_BL: jax.Array, num_sources: int
) -> Metrics:
    loss_BL = jax.lax.stop_gradient(output.loss_BL)
    weight = jnp.sum(weights_BL)
    metrics: Metrics = {
        "loss": (jnp.sum(loss_BL), weight),
        "z_loss": (jnp.sum(output.z_loss_BL), weight),
        "accuracy": (jnp.sum(output.correct_BL), weight),
        "decoder_fill": _fill(batch, "decoder", "decoder_target_tokens"),
    }
    if "encoder_input_tokens" in batch:
        metrics["encoder_fill"] = _fill(batch, "encoder", "encoder_input_tokens")
    if num_sources and "decoder_source_ids" in batch:
        # A masked sum, not a scatter: its order of addition is fixed on every device.
        ids_P11 = jnp.arange(1, num_sources + 1)[:, None, None]
        here_PBL = jnp.asarray(batch["decoder_source_ids"])[None] == ids_P11
        loss_P, weight_P = (
            jnp.sum(jnp.where(here_PBL, x_BL[None], 0), axis=(1, 2))
            for x_BL in (loss_BL, weights_BL)
        )
        metrics[BY_SOURCE] = (loss_P, weight_P)
    return metrics


def _fill(batch: Batch, side: str, tokens: str) -> tuple[jax.Array, jax.Array]:
    """Real tokens and positions."""
    real_BL = batch.get(f"{side}_segment_ids", batch[tokens])  # a token may be 0
    return jnp.sum(real_BL != 0).astype(jnp.float32), jnp.float32(real_BL.size)


def accumulate(
    of_part: Callable[[jax.Array, Batch, jax.Array], Any],
    num_parts: int,
    batch: Batch,
    weights_BL: jax.Array,
) -> Any:
    """Sums ``of_part(index, part of the batch, its weights)``, a pytree, over the parts.

    Row b belongs to part ``b % num_parts``, so that every device keeps its own rows: the batch
    stays split along its leading axis, and no row travels.
    """
    if num_parts == 1:
        return of_part(jnp.int32(0), batch, weights_BL)

    def split(x_B: Any) -> jax.Array:
        x_MB = jnp.asarray(x_B).reshape(-1, num_parts, *x_B.shape[1:])
        return jnp.moveaxis(x_MB, 1, 0)

    parts = (jnp.arange(num_parts), *jax.tree.map(split, (dict(batch), weights_BL)))
    shapes = jax.eval_shape(of_part, *jax.tree.map(lambda x: x[0], parts))
    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)

    def add(total: Any, part: Any) -> tuple[Any, None]:
        return jax.tree.map(jnp.add, total, of_part(*part)), None

    return jax.lax.scan(add, zeros, parts)[0]
