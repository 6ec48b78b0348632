"""Beam search: the likeliest beginnings of every answer go on side by side.

    candidates          every beam of a prompt, and one token more: the 2 W likeliest
      those that end    compete with the prompt's ended ones by score; the W best stay
      the others        the W likeliest are the next step's beams

    score = log-likelihood / ((5 + length) / 6) ** alpha          the end of sequence counts

The score is that of Wu et al. 2016 (arXiv:1609.08144, eq. 14, without coverage); the rest follows
T5X's `decoding.beam_search`. There, too, the answer is the best of the ended ones if there is any,
else the likeliest beam; and a row is done when none of its beams can still enter its ended ones.

DIVERGES from T5X: what is never generated (padding, rows beyond the vocabulary) has probability 0,
as in draws. An impossible hypothesis has -inf, where T5X's -1e7 may end and become an answer if
there are fewer than 2 W candidates. Of equal candidates the earlier one wins, as in greedy
decoding: that of the better beam, then the lower id.

Axis legend: P prompts, W beams (or hypotheses of any kind), C candidates, L target length,
V vocabulary, B = P * W rows of the model, the beams of a prompt one after the other.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from ul2tune import sharding
from ul2tune.decoding.interface import DecodingModel, Generated, Rules, empty_rows
from ul2tune.decoding.sampling import SamplingConfig
from ul2tune.types import Batch


@jax.tree_util.register_dataclass
@dataclass(frozen=True, kw_only=True)
class Hypotheses:
    """Some continuations per prompt.

    Attributes:
      tokens_PWL: int32, padding after the last.
      scores_PW: log-likelihoods, or what ended ones compete by; -inf where there is no hypothesis.
    """

    tokens_PWL: jax.Array
    scores_PW: jax.Array

    def best(self, count: int) -> tuple[Hypotheses, jax.Array]:
        """The best `count`, best first, and where they were, [P, count]."""
        scores_PW, where_PW = _top_k(self.scores_PW, count)
        tokens_PWL = jnp.take_along_axis(self.tokens_PWL, where_PW[..., None], axis=1)
        return Hypotheses(tokens_PWL=tokens_PWL, scores_PW=scores_PW), where_PW

    def only(self, kept_PW: jax.Array) -> Hypotheses:
        """Without the others."""
        scores_PW = jnp.where(kept_PW, self.scores_PW, -jnp.inf)
        return Hypotheses(tokens_PWL=self.tokens_PWL, scores_PW=scores_PW)


@jax.tree_util.register_dataclass
@dataclass(frozen=True, kw_only=True)
class BeamState:
    """Everything the loop carries.

    Attributes:
      step: position decoded next, a scalar.
      beams: what goes on, with log-likelihoods, best first.
      ended: what has ended, with scores, best first.
      last_PW: the token each beam is fed next (0, which stands for the start, at position 0).
      done_P: whether `ended` is final.
      finite_P: whether all logits that mattered had a finite maximum.
      cache: the model's, of B rows.
    """

    step: jax.Array
    beams: Hypotheses
    ended: Hypotheses
    last_PW: jax.Array
    done_P: jax.Array
    finite_P: jax.Array
    cache: Any


def search(model: DecodingModel, batch: Batch, config: SamplingConfig, rules: Rules) -> Generated:
    """Generates the continuation that beam search finds best, per prompt.

    What a prompt is answered does not depend on the others: one that is done keeps its ended
    hypotheses while others go on.

    Args:
      model: as `generate.generate` takes it.
      batch: the same; P prompts.
      config: static, of several beams.
      rules: what may be generated.
    """
    length, looped = config.max_decode_length, model.unstacked()
    empty_P = empty_rows(batch)

    def unfinished(state: BeamState) -> jax.Array:
        return (state.step < length) & ~jnp.all(state.done_P)

    def decode(state: BeamState) -> BeamState:
        logits_BV, cache = looped.decode_step(state.cache, state.last_PW.reshape(-1), state.step)
        logits_BV = rules.allowed(logits_BV)
        exists_PW = state.beams.scores_PW > -jnp.inf
        finite_PW = jnp.isfinite(jnp.max(logits_BV, axis=-1)).reshape(exists_PW.shape) | ~exists_PW
        candidates, parents_PC, last_PC = _candidates(state, logits_BV, rules)
        over_PC = rules.ended(last_PC)
        beams, where_PW = candidates.only(~over_PC).best(config.num_beams)
        ended = _with_ended(state, candidates.only(over_PC), config)
        # Log-likelihoods only fall, and no hypothesis is divided by more. Where nothing goes on or
        # could win, -inf or a tie, what has ended stays as it is, too.
        bound_P = beams.scores_PW[:, 0] / _divisor(length, config)
        return BeamState(
            step=state.step + 1,
            beams=beams,
            ended=ended,
            last_PW=jnp.take_along_axis(last_PC, where_PW, axis=1),
            done_P=state.done_P | (ended.scores_PW[:, -1] >= bound_P),
            finite_P=state.finite_P & (state.done_P | jnp.all(finite_PW, axis=1)),
            cache=cache.reordered(jnp.take_along_axis(parents_PC, where_PW, axis=1)),
        )

    end = jax.lax.while_loop(unfinished, decode, _start(model, batch, config, rules, empty_P))
    has_ended_P1 = end.ended.scores_PW[:, :1] > -jnp.inf
    tokens_PL = jnp.where(has_ended_P1, end.ended.tokens_PWL[:, 0], end.beams.tokens_PWL[:, 0])
    tokens_PL = jnp.where(empty_P[:, None], rules.pad_id, tokens_PL)
    return Generated(tokens_BL=tokens_PL, finite_B=end.finite_P)


def _start(
    model: DecodingModel, batch: Batch, config: SamplingConfig, rules: Rules, empty_P: jax.Array
) -> BeamState:
    """One empty beam per prompt, and places for the others."""
    shape_PW = (*empty_P.shape, config.num_beams)
    length = config.max_decode_length
    tokens_PWL = jnp.full((*shape_PW, length), rules.pad_id, jnp.int32)
    nothing = Hypotheses(tokens_PWL=tokens_PWL, scores_PW=jnp.full(shape_PW, -jnp.inf))
    cache = model.start_decoding(batch, max_decode_length=length)
    return BeamState(
        step=jnp.zeros((), jnp.int32),
        beams=Hypotheses(tokens_PWL=tokens_PWL, scores_PW=nothing.scores_PW.at[:, 0].set(0.0)),
        ended=nothing,
        last_PW=jnp.zeros(shape_PW, jnp.int32),
        done_P=empty_P,
        finite_P=jnp.ones(empty_P.shape, bool),
        cache=cache.for_beams(config.num_beams),
    )


def _candidates(
    state: BeamState, logits_BV: jax.Array, rules: Rules
) -> tuple[Hypotheses, jax.Array, jax.Array]:
    """The likeliest beams with one token more, best first; which beams [P, C], which tokens [P, C].

    So many that W of them go on, however many end: 2 W, as a beam can end in one way, or 3 W where
    rows have a stop as well.
    """
    prompts, num_beams = state.last_PW.shape
    count = num_beams * (2 if rules.stops_B is None else 3)
    scores_B1 = state.beams.scores_PW.reshape(-1, 1)
    # The logits of a beam that does not exist mean nothing, and may be NaN.
    scores_BV = jnp.where(
        scores_B1 > -jnp.inf, scores_B1 + jax.nn.log_softmax(logits_BV, axis=-1), -jnp.inf
    )
    scores_PC, where_PC = _top_k(scores_BV.reshape(prompts, -1), count)
    parents_PC, last_PC = jnp.divmod(where_PC, scores_BV.shape[1])
    tokens_PCL = jnp.take_along_axis(state.beams.tokens_PWL, parents_PC[..., None], axis=1)
    tokens_PCL = tokens_PCL.at[:, :, state.step].set(last_PC)
    return Hypotheses(tokens_PWL=tokens_PCL, scores_PW=scores_PC), parents_PC, last_PC


def _with_ended(state: BeamState, candidates: Hypotheses, config: SamplingConfig) -> Hypotheses:
    """The best of what had ended and of the candidates, all of which end here."""
    scores_PC = candidates.scores_PW / _divisor(state.step + 1, config)
    # Only the 2 W likeliest may end, also where more are looked at.
    in_time_C = jnp.arange(scores_PC.shape[1]) < 2 * config.num_beams
    scores_PC = jnp.where(in_time_C[None] & ~state.done_P[:, None], scores_PC, -jnp.inf)
    both = Hypotheses(
        tokens_PWL=jnp.concatenate([state.ended.tokens_PWL, candidates.tokens_PWL], axis=1),
        scores_PW=jnp.concatenate([state.ended.scores_PW, scores_PC], axis=1),
    )
    return both.best(config.num_beams)[0]


def _divisor(length: jax.Array | int, config: SamplingConfig) -> jax.Array:
    """What a log-likelihood over `length` tokens is divided by: T5X's brevity penalty."""
    return ((5.0 + jnp.asarray(length, jnp.float32)) / 6.0) ** config.beam_alpha


def _top_k(scores: jax.Array, count: int) -> tuple[jax.Array, jax.Array]:
    """The largest of every row, and where they are; of equal ones the first."""
    return sharding.by_rows(lambda own: tuple(jax.lax.top_k(own, count)), scores)
