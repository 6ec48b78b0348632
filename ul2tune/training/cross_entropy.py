"""Cross-entropy from hidden states, in chunks.

The logits of a batch are the largest array of a training step (128 x 512 x 32128 floats are 8.4
GB), so they never exist: :func:`cross_entropy` takes the final hidden states and the head kernel,
walks over the target positions in chunks, keeps each token's log Z in two parts (the largest logit,
and the logarithm of the sum relative to it), and computes the logits of each chunk again in the
backward pass.

Axes: B batch, L target length, D model, V vocabulary; C positions of one chunk, G data-parallel
groups of the batch.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from ul2tune import sharding
from ul2tune.models.layers import cap
from ul2tune.training.loss import LossConfig
from ul2tune.types import Array


@jax.tree_util.register_dataclass
@dataclass(frozen=True, kw_only=True)
class LossOutput:
    """Per-token results, float32, each already multiplied by the loss weights.

    Sums over them (all tokens, or the tokens of one source) divided by the same sums over the
    weights are the metrics.

    Attributes:
      loss_BL: cross-entropy with label smoothing plus z-loss. Gradients flow through this field
        alone.
      z_loss_BL: the part of `loss_BL` that is z-loss; for logging.
      correct_BL: 1 where the target is the arg max of the logits (the lowest id among equals).
    """

    loss_BL: jax.Array
    z_loss_BL: jax.Array
    correct_BL: jax.Array


def cross_entropy(
    hidden_BLD: jax.Array,
    head_VD: jax.Array,
    targets_BL: Array,
    weights_BL: Array | None = None,
    config: LossConfig | None = None,
    softcap: float | None = None,
) -> LossOutput:
    """Cross-entropy of ``logits = hidden @ head.T`` without ever holding the logits [B, L, V].

    Per token, with p the softmax over the V logits l, target t, smoothing s, o = s / (V - 1)::

        loss = log Z - sum_v q_v l_v + z_loss * (log Z)^2 - H(q),   q_t = 1 - s, q_v = o elsewhere
        dloss/dl = (1 + 2 z_loss log Z) p - q

    Works under `jax.jit` with the vocabulary sharded (log Z and the target's logit are reduced over
    the shards, logits are not gathered) and the batch sharded (chunks run along the length, so
    every device works on its own rows; the head's gradient is summed over devices once, after the
    last chunk).

    Args:
      hidden_BLD: the model's output, scaled so that the product with the head gives logits; float32
        or bfloat16.
      head_VD: output embedding, one row per token id (rows beyond the vocabulary are classes like
        any other, as in T5X).
      targets_BL: int target ids.
      weights_BL: loss weights; None means 1 everywhere.
      config: coefficients and chunk size; None means the defaults.
      softcap: if given, ``logits = softcap * tanh(logits / softcap)`` (Gemma 2).

    NUMERICS: the matmuls take operands in `hidden_BLD.dtype` and accumulate in float32; softmax,
    losses and the head's gradient over chunks are float32. The softmax's gradient is rounded to the
    operand type before its two matmuls. The backward pass gets log Z in its two parts: added up
    they would be rounded in proportion to the largest logit, and so would the softmax.
    """
    config = LossConfig() if config is None else config
    targets_BL = jnp.asarray(targets_BL, jnp.int32)
    assert hidden_BLD.shape[:2] == targets_BL.shape, (hidden_BLD.shape, targets_BL.shape)
    assert hidden_BLD.shape[2] == head_VD.shape[1], (hidden_BLD.shape, head_VD.shape)
    terms = _Terms(z_loss=config.z_loss, label_smoothing=config.label_smoothing, softcap=softcap)
    batch_size, length = targets_BL.shape
    chunking = _Chunking.of(batch_size, length, config.chunk_tokens)
    outputs: Any = _cross_entropy(hidden_BLD, head_VD, targets_BL, terms, chunking)
    loss_BL, z_loss_BL, correct_BL = outputs
    weights_BL = (
        jnp.ones_like(loss_BL) if weights_BL is None else jnp.asarray(weights_BL, jnp.float32)
    )
    return LossOutput(
        loss_BL=loss_BL * weights_BL,
        z_loss_BL=jax.lax.stop_gradient(z_loss_BL * weights_BL),
        correct_BL=correct_BL * weights_BL,
    )


@dataclass(frozen=True, kw_only=True)
class _Terms:
    """The loss of one token, as static numbers."""

    z_loss: float
    label_smoothing: float
    softcap: float | None

    def soft_targets(self, vocab_size: int) -> tuple[float, float, float]:
        """Target probability of the right token, of any other one, and the targets' entropy."""
        on = 1.0 - self.label_smoothing
        off = self.label_smoothing / max(vocab_size - 1, 1)
        entropy = -sum(n * p * math.log(p) for n, p in ((1, on), (vocab_size - 1, off)) if p > 0)
        return on, off, entropy


@dataclass(frozen=True, kw_only=True)
class _Chunking:
    """How [B, L, ...] is cut along the length into chunks [B, C, ...] (the last one padded)."""

    length: int
    size: int
    groups: int

    @classmethod
    def of(cls, batch_size: int, length: int, chunk_tokens: int) -> _Chunking:
        """Chunks of equal size, of at most `chunk_tokens` per data-parallel group if C > 1."""
        groups = sharding.batch_groups(batch_size)
        num_chunks = math.ceil(length / max(1, groups * chunk_tokens // batch_size))
        return cls(length=length, size=math.ceil(length / num_chunks), groups=groups)

    def split(self, x: jax.Array) -> jax.Array:
        """[B, L, ...] -> [L / C, B, C, ...]"""
        padding = -self.length % self.size
        x = jnp.pad(x, [(0, 0), (0, padding)] + [(0, 0)] * (x.ndim - 2))
        return jnp.moveaxis(x.reshape(x.shape[0], -1, self.size, *x.shape[2:]), 1, 0)

    def join(self, chunks: jax.Array) -> jax.Array:
        """The inverse of :meth:`split`."""
        x = jnp.moveaxis(chunks, 0, 1)
        return x.reshape(x.shape[0], -1, *x.shape[3:])[:, : self.length]


def _operand(head_VD: jax.Array, dtype: Any) -> jax.Array:
    """The head as the matmuls read it: gathered over `fsdp` once, before the loop over chunks."""
    return sharding.constrain(head_VD.astype(dtype), "vocab", None)


def _logits(hidden_BCD: jax.Array, head_VD: jax.Array) -> jax.Array:
    """Logits before any softcap, float32 [B, C, V]."""
    logits_BCV = jnp.einsum("BCD,VD->BCV", hidden_BCD, head_VD, preferred_element_type=jnp.float32)
    return sharding.constrain(logits_BCV, "batch", None, "vocab")


def _is_target(targets_BC: jax.Array, vocab_size: int) -> jax.Array:
    # A comparison with an iota, not a gather: it fuses into the reduction over V and stays local to
    # a vocabulary shard.
    ids_11V = jax.lax.broadcasted_iota(jnp.int32, (1, 1, vocab_size), 2)
    return targets_BC[:, :, None] == ids_11V


def _arg_max(logits_BCV: jax.Array) -> jax.Array:
    """The lowest id among the largest, as a minimum over ids: it reduces over vocabulary shards
    without gathering them.

    NUMERICS: takes the logits as the product gives them, before any softcap. A value derived from
    them a compiler may compute twice, once for the maximum and once for the comparison, and round
    differently; then no logit would equal the maximum.
    """
    vocab_size = logits_BCV.shape[-1]
    ids_11V = jax.lax.broadcasted_iota(jnp.int32, (1, 1, vocab_size), 2)
    is_largest_BCV = logits_BCV == jnp.max(logits_BCV, axis=-1, keepdims=True)
    return jnp.min(jnp.where(is_largest_BCV, ids_11V, vocab_size), axis=-1)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3, 4))
def _cross_entropy(hidden_BLD, head_VD, targets_BL, terms: _Terms, chunking: _Chunking):
    """Returns the loss, the z-loss in it, and 1 where the target is the arg max, all [B, L]."""
    return _forward(hidden_BLD, head_VD, targets_BL, terms, chunking)[0]


def _forward(hidden_BLD, head_VD, targets_BL, terms: _Terms, chunking: _Chunking):
    vocab_size = head_VD.shape[0]
    on, off, entropy = terms.soft_targets(vocab_size)
    operand_VD = _operand(head_VD, hidden_BLD.dtype)

    def chunk(_, inputs):
        hidden_BCD, targets_BC = inputs
        uncapped_BCV = _logits(hidden_BCD, operand_VD)
        logits_BCV = cap(uncapped_BCV, terms.softcap)
        max_BC1 = jnp.max(logits_BCV, axis=-1, keepdims=True)
        shifted_BCV = logits_BCV - max_BC1
        log_sum_BC = jnp.log(jnp.sum(jnp.exp(shifted_BCV), axis=-1))
        is_target_BCV = _is_target(targets_BC, vocab_size)
        target_BC = jnp.sum(jnp.where(is_target_BCV, shifted_BCV, 0), axis=-1)
        # The soft targets sum to 1, so the maximum cancels against log Z's. NUMERICS: as in T5X a
        # target that is no id of the vocabulary has none of the `on` in them, while the gradient
        # stays that of targets that sum to 1.
        known_BC = (targets_BC >= 0) & (targets_BC < vocab_size)
        mass_BC = jnp.where(known_BC, 1.0, off * vocab_size)
        loss_BC = mass_BC * log_sum_BC - (on - off) * target_BC - entropy
        if off > 0:
            loss_BC -= off * jnp.sum(shifted_BCV, axis=-1)
        max_BC = max_BC1[..., 0]
        log_z_BC = log_sum_BC + max_BC
        # With z_loss = 0 there is no square, which could overflow and give 0 * inf = NaN.
        squares_BC = jnp.square(log_z_BC) if terms.z_loss else jnp.zeros_like(log_z_BC)
        z_loss_BC = terms.z_loss * squares_BC
        correct_BC = (_arg_max(uncapped_BCV) == targets_BC).astype(jnp.float32)
        return None, (loss_BC + z_loss_BC, z_loss_BC, correct_BC, max_BC, log_sum_BC)

    _, outputs = _scan(chunk, None, (chunking.split(hidden_BLD), chunking.split(targets_BL)))
    loss_BL, z_loss_BL, correct_BL, *log_z = (chunking.join(x) for x in outputs)
    return (loss_BL, z_loss_BL, correct_BL), (hidden_BLD, head_VD, targets_BL, *log_z)


def _backward(terms: _Terms, chunking: _Chunking, residuals, cotangents):
    hidden_BLD, head_VD, targets_BL, *log_z = residuals
    grad_BL = cotangents[0]  # z-loss and correctness are for logging
    vocab_size, dtype = head_VD.shape[0], hidden_BLD.dtype
    on, off, _ = terms.soft_targets(vocab_size)
    operand_VD = _operand(head_VD, dtype)

    def chunk(head_grad_GVD, inputs):
        hidden_BCD, targets_BC, max_BC, log_sum_BC, grad_BC = inputs
        logits_BCV = cap(_logits(hidden_BCD, operand_VD), terms.softcap)
        soft_targets_BCV = jnp.where(_is_target(targets_BC, vocab_size), on, off)
        scale_BC1 = (1 + 2 * terms.z_loss * (log_sum_BC + max_BC))[:, :, None]
        probabilities_BCV = _probabilities(logits_BCV, max_BC, log_sum_BC, terms)
        logits_grad_BCV = grad_BC[:, :, None] * (scale_BC1 * probabilities_BCV - soft_targets_BCV)
        if terms.softcap is not None:
            logits_grad_BCV *= 1 - jnp.square(logits_BCV / terms.softcap)
        logits_grad_BCV = logits_grad_BCV.astype(dtype)
        hidden_grad_BCD = jnp.einsum(
            "BCV,VD->BCD", logits_grad_BCV, operand_VD, preferred_element_type=jnp.float32
        ).astype(dtype)
        head_grad_GVD += jnp.einsum(
            "GBCV,GBCD->GVD",
            _group(logits_grad_BCV, chunking.groups),
            _group(hidden_BCD, chunking.groups),
            preferred_element_type=jnp.float32,
        )
        return sharding.constrain(head_grad_GVD, "batch", "vocab", None), hidden_grad_BCD

    # One partial sum per data-parallel group, so that devices add their gradients once and not once
    # per chunk.
    zeros_GVD = jnp.zeros((chunking.groups, *head_VD.shape), jnp.float32)
    inputs = tuple(chunking.split(x) for x in (hidden_BLD, targets_BL, *log_z, grad_BL))
    head_grad_GVD, hidden_grads = _scan(chunk, zeros_GVD, inputs)
    head_grad_VD = jnp.sum(head_grad_GVD, axis=0).astype(head_VD.dtype)
    return chunking.join(hidden_grads), head_grad_VD, None


def _probabilities(logits_BCV, max_BC, log_sum_BC, terms: _Terms) -> jax.Array:
    """The softmax, from the two parts of log Z that the forward pass kept.

    NUMERICS: capped logits are normalised anew instead. Each pass computes the cap itself, and a
    compiler may round the two results differently; probabilities from the logits of one pass and
    the log Z of the other would not sum to 1.
    """
    if terms.softcap is not None:
        return jax.nn.softmax(logits_BCV, axis=-1)
    return jnp.exp(logits_BCV - max_BC[:, :, None] - log_sum_BC[:, :, None])


def _group(x_BC: jax.Array, groups: int) -> jax.Array:
    """[B, ...] -> [G, B / G, ...]"""
    return x_BC.reshape(groups, -1, *x_BC.shape[1:])


def _scan(body: Any, carry: Any, inputs: Any):
    """`jax.lax.scan`, but no loop around a single chunk: XLA then fuses it with what is around."""
    if jax.tree.leaves(inputs)[0].shape[0] > 1:
        return jax.lax.scan(body, carry, inputs)
    carry, outputs = body(carry, jax.tree.map(lambda x: x[0], inputs))
    return carry, jax.tree.map(lambda x: x[None], outputs)


_cross_entropy.defvjp(_forward, _backward)
