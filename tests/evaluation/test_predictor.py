"""Batches of any size give the same answers: exactly in float32, nearly in bfloat16."""

from __future__ import annotations

import dataclasses

import jax
import numpy as np
import pytest

from tests.decoding import tiny
from tests.evaluation import prepared, test_layouts
from tests.models import t5gemma_examples
from ul2tune import sharding
from ul2tune.decoding.sampling import SamplingConfig
from ul2tune.evaluation import predictor as predictor_module
from ul2tune.evaluation.predictor import LogLikelihood, Predictor
from ul2tune.models import base
from ul2tune.sharding import MeshConfig

# Large enough for near ties that a bit of rounding decides.
MODEL = dataclasses.replace(
    tiny.MODEL,
    vocab_size=512,
    d_model=128,
    d_kv=32,
    d_ff=256,
    num_encoder_layers=2,
    scan_layers=False,
    activation="gelu_gated",
)
NUM_PROMPTS = 32


ONE = MeshConfig(data=1, fsdp=1, tensor=1)


def make_predictor(
    model, batch_size: int, how: MeshConfig = ONE, buckets: tuple[int, ...] = (64,), **options
) -> Predictor:
    """With random parameters."""
    mesh = sharding.make_mesh(how, jax.devices()[: how.data * how.fsdp * how.tensor])
    shardings = sharding.param_shardings(base.abstract_params(model), base.param_axes(model), mesh)
    vocabulary = prepared.VOCABULARY
    return Predictor(
        model,
        jax.device_put(jax.device_get(base.init_params(model, jax.random.key(0))), shardings),
        mesh,
        info=vocabulary.info,
        num_ids=vocabulary.size,
        batch_size=batch_size,
        length_buckets=buckets,
        **options,
    )


def answers(model, batch_size: int):
    """Generations and log-likelihoods of the same random prompts."""
    predictor = make_predictor(model, batch_size)
    rng = np.random.default_rng(0)
    inputs = [rng.integers(3, 250, rng.integers(5, 60), np.int32) for _ in range(NUM_PROMPTS)]
    targets = [rng.integers(3, 250, 4, np.int32) for _ in range(NUM_PROMPTS)]
    names = [str(number) for number in range(NUM_PROMPTS)]
    written = predictor.generate(inputs, names, SamplingConfig(max_decode_length=32))
    return np.stack(written), np.array([found.sum for found in predictor.score(inputs, targets)])


@pytest.mark.parametrize(
    ("dtype", "rows_that_may_differ", "atol"),
    # In bfloat16 with XLA's excess precision: 8 rows, log-likelihoods by 4e-2.
    [("float32", 0, 2e-5), ("bfloat16", 2, 2e-3)],
)
def test_batch_size_changes_only_rounding(dtype, rows_that_may_differ, atol):
    """Random parameters: a prompt whose continuation has a near tie goes another way from there."""
    model = dataclasses.replace(MODEL, dtype=dtype)
    written, likelihoods = answers(model, NUM_PROMPTS)
    assert len(np.unique(written)) > 20
    for batch_size in (5, 1):
        other, others = answers(model, batch_size)
        assert (other != written).any(-1).sum() <= rows_that_may_differ
        np.testing.assert_allclose(others, likelihoods, rtol=0, atol=atol)


def test_a_stop_ends_its_own_prompt_alone():
    """Five prompts over batches of two; the stop is what the answer has at its third place."""
    predictor = make_predictor(MODEL, batch_size=2)
    inputs = [np.arange(3, 9 + i, dtype=np.int32) for i in range(5)]
    names, sampling = list("abcde"), SamplingConfig(max_decode_length=8, temperature=5.0)
    free = predictor.generate(inputs, names, sampling)
    stops = [None, int(free[1][2]), None, None, int(free[4][2])]
    ended = predictor.generate(inputs, names, sampling, stops=stops)
    for index, (one, other) in enumerate(zip(free, ended, strict=True)):
        assert len(set(one.tolist())) > 4
        kept = 3 if stops[index] is not None else 8
        assert other.tolist() == [*one[:kept], *[0] * (8 - kept)]


def test_beams_depend_on_neither_batch_nor_mesh():
    """Prompts of two padded lengths, some with a stop, over batches that they do not fill; one
    program per length. Some answers end and some do not."""
    rng = np.random.default_rng(0)
    inputs = [rng.integers(3, 250, length, np.int32) for length in rng.integers(5, 100, 13)]
    names = [str(number) for number in range(13)]
    stops = [None if i % 3 else 40 + i for i in range(13)]
    sampling = SamplingConfig(max_decode_length=10, num_beams=4)
    found = []
    meshes = [(8, 1, 1), (2, 2, 2), (1, 4, 2)]
    for batch_size, sizes in [(13, (1, 1, 1)), (3, (1, 1, 1)), *((8, sizes) for sizes in meshes)]:
        how = MeshConfig(**dict(zip(("data", "fsdp", "tensor"), sizes, strict=True)))
        predictor = make_predictor(MODEL, batch_size, how, buckets=(64, 128))
        found.append(np.stack(predictor.generate(inputs, names, sampling, stops=stops)))
        assert predictor.num_compiled == 2
    for other in found[1:]:
        np.testing.assert_array_equal(other, found[0])
    assert {1 in row for row in found[0].tolist()} == {True, False}
    assert len({tuple(row) for row in found[0].tolist()}) > 10


@pytest.fixture
def traced(monkeypatch) -> list[tuple[int, ...]]:
    """Rows of the encoder and of the decoder, and the target length, of every scoring program."""
    programs = []

    def score(model, batch):
        rows = batch.get("encoder_input_tokens", batch["decoder_input_tokens"]).shape[0]
        programs.append((rows, *batch["decoder_target_tokens"].shape))
        return original(model, batch)

    original = predictor_module.score
    monkeypatch.setattr(predictor_module, "score", score)
    return programs


def ragged() -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Pairs in disorder: of one prompt eleven targets, of another three and a longer one, of a
    third one; one target is empty."""
    rng = np.random.default_rng(0)
    prompts = [rng.integers(3, 250, length, np.int32) for length in (40, 23, 31)]
    lengths = {0: (4, 2, 3, 1, 4, 3, 2, 4, 1, 2, 3), 1: (3, 0, 2, 7), 2: (4,)}
    pairs = [
        (prompts[number], rng.integers(3, 250, length, np.int32))
        for number, of_one in lengths.items()
        for length in of_one
    ]
    order = rng.permutation(len(pairs))
    return [pairs[i][0] for i in order], [pairs[i][1] for i in order]


def check_scores(found: list[LogLikelihood], expected: list[LogLikelihood]) -> None:
    assert [one.num_tokens for one in found] == [one.num_tokens for one in expected]
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one.tokens, other.tokens, rtol=0, atol=2e-5)
        assert one.sum == pytest.approx(other.sum, abs=5e-5)


ENCODER_DECODERS = {
    "t5": tiny.MODEL,
    "t5gemma": t5gemma_examples.first(vocab_size=264),
    "t5gemma_2": t5gemma_examples.second(vocab_size=264),
}


@pytest.mark.parametrize("model", ENCODER_DECODERS.values(), ids=ENCODER_DECODERS)
def test_a_prompt_is_encoded_once_for_its_targets(model, traced):
    """Of one padded length, in parts of 8, 4, 2 and 1; one by one each has an encoding."""
    inputs, targets = ragged()
    expected = make_predictor(model, batch_size=1).score(inputs, targets)
    assert set(traced) == {(1, 1, 4), (1, 1, 8)}
    assert [one.num_tokens for one in expected] == [len(ids) for ids in targets]
    assert len({round(one.sum, 3) for one in expected}) == len(targets)
    traced.clear()
    done: list[int] = []
    together = make_predictor(model, batch_size=16)
    check_scores(together.score(inputs, targets, done.append), expected)
    # The eleven are 8 and 3; with the other three these fill two parts of 4.
    assert sorted(traced) == [(2, 16, 4), (4, 16, 4), (16, 16, 4), (16, 16, 8)]
    assert sorted(done) == [1, 1, 6, 8]
    assert together.num_compiled == len(traced)
    traced.clear()
    # Two rows for each of eight devices; then seven for each of two, where parts of 4 leave some.
    over_data = make_predictor(model, 16, MeshConfig(data=4, fsdp=2, tensor=1))
    check_scores(over_data.score(inputs, targets), expected)
    assert sorted(traced) == [(8, 16, 4), (16, 16, 4), (16, 16, 8)]
    traced.clear()
    over_heads = make_predictor(model, 14, MeshConfig(data=1, fsdp=2, tensor=2))
    check_scores(over_heads.score(inputs, targets), expected)
    assert sorted(traced) == [(2, 8, 4), (14, 14, 4), (14, 14, 8)]


def test_no_batch_has_more_rows_than_its_size(traced):
    """Batches that parts do not divide have fewer."""
    inputs, targets = ragged()
    make_predictor(tiny.MODEL, batch_size=7).score(inputs, targets)
    assert sorted(traced) == [(1, 4, 4), (7, 7, 4), (7, 7, 8)]


def test_a_decoder_only_model_reads_the_prompt_in_every_row(traced):
    inputs, targets = ragged()
    model = dataclasses.replace(test_layouts.MODEL, max_length=128)
    make_predictor(model, 16, layout="causal_lm").score(inputs, targets)
    assert sorted(traced) == [(16, 16, 68), (16, 16, 72)]


def test_an_encoder_that_would_read_nothing_is_no_answer():
    mesh = sharding.make_mesh(MeshConfig(data=1, fsdp=1, tensor=1), jax.devices()[:1])
    predictor = Predictor(
        tiny.MODEL,
        tiny.params(),
        mesh,
        info=prepared.VOCABULARY.info,
        num_ids=prepared.VOCABULARY.size,
        batch_size=2,
        length_buckets=(64,),
    )
    prompts = [np.array([5], np.int32), np.array([], np.int32)]
    with pytest.raises(ValueError, match="Prompt 'b' has no tokens"):
        predictor.generate(prompts, ["a", "b"], SamplingConfig(max_decode_length=2))
    # Its likelihoods are those of plain language modelling.
    assert predictor.score(prompts, prompts[:1] * 2)[1].sum < 0


@pytest.mark.parametrize("how", [{}, {"temperature": 1.0}, {"num_beams": 3}])
def test_parameters_that_are_not_finite_answer_nothing(how):
    predictor = make_predictor(tiny.MODEL, batch_size=4)
    sampling = SamplingConfig(max_decode_length=6, **how)
    inputs, names = [np.arange(3, 9, dtype=np.int32)] * 3, ["first/0", "first/1", "second/0"]
    assert len(predictor.generate(inputs, names, sampling)) == 3
    predictor.params = jax.tree.map(lambda leaf: leaf * np.nan, predictor.params)
    with pytest.raises(ValueError, match=r"answer to 'first/0' are not finite.* earlier step"):
        predictor.generate(inputs, names, sampling)
