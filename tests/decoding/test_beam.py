"""Beam search against one of Python lists, and against all continuations there are."""

from __future__ import annotations

import dataclasses
import functools
import itertools
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.decoding import beam_reference
from tests.models import decoder_examples, examples, t5gemma_examples
from ul2tune.decoding.generate import generate
from ul2tune.decoding.interface import Rules
from ul2tune.decoding.sampling import SamplingConfig
from ul2tune.evaluation import layouts
from ul2tune.models import base

EOS, STATES = 1, 11


@functools.partial(jax.tree_util.register_dataclass, data_fields=["row", "state"], meta_fields=[])
@dataclass(frozen=True)
class Cache:
    """Which table a row reads, and what it has read: a number that depends on all tokens."""

    row: jax.Array
    state: jax.Array

    def for_beams(self, num_beams: int) -> Cache:
        return Cache(jnp.repeat(self.row, num_beams), jnp.repeat(self.state, num_beams))

    def reordered(self, beams_PW: jax.Array) -> Cache:
        state_PW = self.state.reshape(beams_PW.shape)
        return Cache(self.row, jnp.take_along_axis(state_PW, beams_PW, axis=1).reshape(-1))


@dataclass(frozen=True)
class Tables:
    """A model with a table of next-token logits per row; of the prompt, its number and one."""

    logits_PSV: jax.Array

    def start_decoding(self, batch: Any, *, max_decode_length: int) -> Cache:
        row = batch["encoder_input_tokens"][:, 0] - 1
        return Cache(row, jnp.zeros_like(row))

    def unstacked(self) -> Tables:
        return self

    def decode_step(self, cache: Cache, tokens_B: Any, index: Any) -> tuple[jax.Array, Cache]:
        state = follow(cache.state, tokens_B) * (index > 0)  # the start token is not read
        return self.logits_PSV[cache.row, state], Cache(cache.row, state)


def follow(state, token):
    return (3 * state + token + 1) % STATES


def next_logps(logits_SV: np.ndarray, num_ids: int, pad_id: int) -> beam_reference.NextLogps:
    """What a table says, in float64, of ids that may be generated."""
    logits_SV = logits_SV.astype(np.float64)
    logits_SV[:, num_ids:] = -np.inf
    if pad_id != EOS:
        logits_SV[:, pad_id] = -np.inf
    logps_SV = logits_SV - np.log(np.exp(logits_SV).sum(-1, keepdims=True))
    return lambda several: np.stack([logps_SV[functools.reduce(follow, x, 0)] for x in several])


def tables(seed: int, rows: int, size: int) -> np.ndarray:
    """Random ones, in which rows end early, late, or never."""
    rng = np.random.default_rng(seed)
    logits_PSV = 2 * rng.standard_normal((rows, STATES, size)).astype(np.float32)
    logits_PSV[:, :, EOS] += np.linspace(-6, 4, rows, dtype=np.float32)[:, None]
    return logits_PSV


@functools.partial(jax.jit, static_argnames=("config", "num_ids", "pad_id"))
def run(logits_PSV, rows_B, config, num_ids, pad_id=0, stops_B=None):
    batch = {"encoder_input_tokens": rows_B[:, None]}
    names_B2 = jnp.zeros((len(rows_B), 2), jnp.uint32)
    rules = Rules(num_ids=num_ids, eos_id=EOS, pad_id=pad_id, stops_B=stops_B)
    return generate(Tables(logits_PSV), batch, config, rules, names_B2)


def padded(tokens, config: SamplingConfig, pad_id: int = 0) -> list[int]:
    return [*tokens, *[pad_id] * (config.max_decode_length - len(tokens))]


ROWS = 48


@pytest.mark.parametrize(
    ("num_beams", "alpha", "length", "size", "pad_id", "stops"),
    [
        (2, 0.6, 6, 12, 0, False),
        (4, 0.0, 7, 12, 0, True),
        (4, 0.6, 9, 30, EOS, False),
        (3, 1.0, 5, 8, 5, True),
        (5, 2.5, 8, 16, 0, True),
        (2, 4.0, 9, 7, 0, True),
        # Fewer candidates than are looked at.
        (7, 0.6, 4, 5, 0, True),
        (4, 0.6, 1, 7, 0, False),
    ],
)
def test_random_tables(num_beams, alpha, length, size, pad_id, stops):
    """Rows of their own stops, sizes of embeddings beyond the vocabulary, padding between rows."""
    config = SamplingConfig(max_decode_length=length, num_beams=num_beams, beam_alpha=alpha)
    num_ids = size - 1
    logits_PSV = tables(length, ROWS, size)
    rows_B = np.arange(1, ROWS + 1, dtype=np.int32)
    rows_B[5] = 0
    stops_B = np.random.default_rng(0).integers(1, num_ids, ROWS, np.int32) if stops else None
    if stops_B is not None:  # in half of the rows beams often end in both ways at once
        logits_PSV[np.arange(0, ROWS, 2), :, stops_B[::2]] += 4
    found = run(logits_PSV, rows_B, config, num_ids, pad_id, stops_B)
    expected = []
    for row, logits_SV in enumerate(logits_PSV):
        ends = {EOS} if stops_B is None else {EOS, int(stops_B[row])}
        how = {"num_beams": num_beams, "alpha": alpha, "length": length}
        answer = beam_reference.search(next_logps(logits_SV, num_ids, pad_id), ends, **how)
        expected.append(padded(() if row == 5 else answer, config, pad_id))
    assert found.tokens_BL.tolist() == expected
    assert found.finite_B.all()
    endings = {row.index(EOS) if EOS in row else None for row in expected}
    assert len(endings) > min(length, 3)


def test_as_many_beams_go_on_where_all_may_end_in_two_ways():
    """Of the second token's 2 W = 4 likeliest candidates all end; what wins goes on after it."""
    probabilities = np.array([1, 0.45, 0.45, 0.06, 0.04], np.float32)
    logits_PSV = np.broadcast_to(np.log(probabilities), (1, STATES, 5))
    config = SamplingConfig(max_decode_length=3, num_beams=2, beam_alpha=10.0)
    stops_B = np.array([2], np.int32)
    found = run(logits_PSV, np.array([1], np.int32), config, 5, stops_B=stops_B)
    assert found.tokens_BL.tolist() == [[3, 3, EOS]]


@pytest.mark.parametrize("alpha", [0.0, 0.6, 1.5])
def test_enough_beams_find_the_best_of_all(alpha):
    """Three ids, of which one ends, over four tokens: at most 8 beams go on, and 24 candidates are
    all looked at. A narrower search misses some."""
    length, logits_PSV = 4, tables(0, 24, 4)
    rows_B = np.arange(1, 25, dtype=np.int32)
    config = SamplingConfig(max_decode_length=length, num_beams=12, beam_alpha=alpha)
    expected = [
        padded(
            beam_reference.exhaustive(
                next_logps(logits_SV[:, :4], 4, 0), {EOS}, alpha=alpha, length=length
            ),
            config,
        )
        for logits_SV in logits_PSV
    ]
    assert run(logits_PSV, rows_B, config, 4).tokens_BL.tolist() == expected
    narrow = dataclasses.replace(config, num_beams=2)
    assert run(logits_PSV, rows_B, narrow, 4).tokens_BL.tolist() != expected


def test_a_row_does_not_depend_on_the_others():
    """Nor on how long they go on."""
    config = SamplingConfig(max_decode_length=12, num_beams=3)
    logits_PSV, rows_B = tables(3, 40, 9), np.arange(1, 41, dtype=np.int32)
    whole = np.asarray(run(logits_PSV, rows_B, config, 9).tokens_BL)
    order = np.random.default_rng(0).permutation(40)[:7]
    for chosen in (order, order[:1]):
        part = np.asarray(run(logits_PSV, rows_B[chosen], config, 9).tokens_BL)
        assert np.array_equal(part, whole[chosen])


# Logits of probabilities .9, .05, .03 and .02; the first ends.
SOON_OVER = np.log(np.array([1, 0.9, 0.05, 0.03, 0.02, 1], np.float32))


def test_the_loop_ends_when_no_beam_can_win():
    """0.9 that a row ends at once: two hypotheses that end are soon better than any to come."""
    steps = []

    class Counting(Tables):
        def decode_step(self, cache, tokens_B, index):
            jax.debug.callback(lambda i: steps.append(int(i)), index)
            return super().decode_step(cache, tokens_B, index)

    logits_PSV = jnp.broadcast_to(SOON_OVER, (2, STATES, 6))
    batch = {"encoder_input_tokens": jnp.array([[1], [2]])}
    config = SamplingConfig(max_decode_length=50, num_beams=2, beam_alpha=0.0)
    names_B2 = jnp.zeros((2, 2), jnp.uint32)
    found = generate(Counting(logits_PSV), batch, config, Rules(num_ids=5), names_B2)
    jax.effects_barrier()
    assert found.tokens_BL[:, 0].tolist() == [EOS, EOS]
    assert sorted(steps) == [0, 1]


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_logits_that_are_not_finite_are_told_by_row(bad):
    """From the first token; once the row is done; of one beam of two; of padding; of the beams
    that there are none of. Ids that are never generated do not matter."""

    class Broken(Tables):
        def decode_step(self, cache, tokens_B, index):
            logits_BV, after = super().decode_step(cache, tokens_B, index)
            bad_B = (cache.row == 1) | ((cache.row == 2) & (index == 2)) | (cache.row == 4)
            bad_B |= (cache.row == 3) & (after.state == follow(0, 3))
            return jnp.where(bad_B[:, None], bad, logits_BV), after

    logits_PSV = tables(0, 6, 6)
    logits_PSV[:, :, [0, 5]] = bad
    logits_PSV[2] = SOON_OVER
    logits_PSV[3, 0] = [0, -9, 5, 5, -9, 0]
    # Only 2 is possible, again and again.
    states = list(itertools.accumulate([2, 2, 2], follow, initial=0))
    logits_PSV[5] = bad
    logits_PSV[5, states] = [0, -np.inf, 0, -np.inf, -np.inf, 0]
    batch = {"encoder_input_tokens": jnp.array([[1], [2], [3], [4], [0], [6]])}
    config = SamplingConfig(max_decode_length=4, num_beams=2)
    names_B2 = jnp.zeros((6, 2), jnp.uint32)
    found = generate(Broken(jnp.asarray(logits_PSV)), batch, config, Rules(num_ids=5), names_B2)
    assert found.finite_B.tolist() == [True, False, True, False, True, True]
    assert found.tokens_BL[2].tolist() == [EOS, 0, 0, 0]
    assert found.tokens_BL[5].tolist() == [2, 2, 2, 2]


FAMILIES: dict[str, Any] = {
    "t5": (examples.config(), layouts.ENCODER_DECODER),
    "t5gemma": (t5gemma_examples.first(), layouts.ENCODER_DECODER),
    "t5gemma2": (t5gemma_examples.second(), layouts.ENCODER_DECODER),
    "gemma": (decoder_examples.gemma(), "prefix_lm"),
    "t5 decoder": (decoder_examples.t5(), "causal_lm"),
}
PROMPTS = [np.arange(5, 11), np.array([7, 3]), np.array([], np.int32), np.arange(20, 25)]
SOURCE, TARGET = 8, 5


@pytest.mark.parametrize("name", FAMILIES)
def test_models_search_as_their_uncached_selves(name):
    """Of prompts of several lengths, one of which is empty, and one that only fills the batch."""
    model, layout = FAMILIES[name]
    params = examples.params(model)
    asked = PROMPTS if layout != layouts.ENCODER_DECODER else [p for p in PROMPTS if len(p)]
    config = SamplingConfig(max_decode_length=TARGET, num_beams=3)

    @functools.partial(jax.jit, compiler_options=examples.QUICK)
    def searched(params, batch):
        names_B2 = jnp.zeros((len(asked) + 1, 2), jnp.uint32)
        bound = base.bind(model, params)
        return generate(bound, batch, config, Rules(num_ids=30, eos_id=29), names_B2).tokens_BL

    @functools.partial(jax.jit, compiler_options=examples.QUICK)
    def logits(params, batch):
        return base.bind(model, params).logits(batch)

    def next_logps(prompt, several):
        """Of the token that follows each of at most three hypotheses."""
        targets = [np.array([*tokens, 2], np.int32) for tokens in several]
        targets += [targets[0]] * (3 - len(targets))
        lengths = (SOURCE, TARGET)
        batch = layouts.pairs(layout, [prompt] * 3, targets, 3, lengths, 1)
        # The last that counts is the 2 of above, which stands for what follows.
        last_3 = [np.flatnonzero(row)[-1] for row in batch["decoder_loss_weights"]]
        logits_3V = np.array(logits(params, batch))[np.arange(3), last_3].astype(np.float64)
        logits_3V[:, [0, 30, 31]] = -np.inf
        logps_3V = logits_3V - np.log(np.exp(logits_3V).sum(-1, keepdims=True))
        return logps_3V[: len(several)]

    prompts = [np.asarray(prompt, np.int32) for prompt in asked]
    batch = layouts.prompts(layout, prompts, len(asked) + 1, SOURCE)
    found = searched(params, batch).tolist()
    for prompt, tokens in zip(prompts, found):
        how = {"num_beams": 3, "alpha": config.beam_alpha, "length": TARGET}
        expected = beam_reference.search(functools.partial(next_logps, prompt), {29}, **how)
        assert tokens == padded(expected, config)
    assert len({tuple(tokens) for tokens in found}) > 2
    assert found[-1] == [0] * TARGET
