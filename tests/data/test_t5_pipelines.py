"""Whole pipelines, row for row."""

import hashlib

import numpy as np
import pytest

from ul2tune.data.ragged import Ragged
from ul2tune.data.t5_pipelines import UL2Objective, span_corruption, ul2_objective
from ul2tune.data.tf_rng import dataset_choices
from ul2tune.data.vocab_info import VocabInfo

VOCAB = VocabInfo(vocab_size=32100, num_sentinels=1000)
SPANS = ((3.0, 0.15), (8.0, 0.15), (3.0, 0.5), (8.0, 0.5), (64.0, 0.15), (64.0, 0.5))


@pytest.fixture(scope="module")
def documents() -> Ragged:
    """The synthetic documents the goldens were made from."""
    return Ragged.from_rows(
        [(i * 1009 + np.arange(50 + (i * 37) % 400) * 31) % 31000 + 3 for i in range(512)]
    )


def digest(sides: tuple[Ragged, Ragged]) -> str:
    sha1 = hashlib.sha1()
    for side in sides:
        sha1.update(side.values.astype("<i4").tobytes() + side.lengths.astype("<i8").tobytes())
    return sha1.hexdigest()


def test_span_corruption_matches_golden(shared, documents):
    for path in sorted((shared / "golden/ul2").glob("pipeline_span_corruption_seed*.npz")):
        golden, seed = np.load(path), int(path.stem.rpartition("seed")[2])
        rows = len(golden["inputs__lengths"])
        sides = span_corruption(documents, seed=seed, vocab=VOCAB, max_rows=rows)
        for side, name in zip(sides, ("inputs", "targets"), strict=True):
            np.testing.assert_array_equal(side.values, golden[f"{name}__values"])
            np.testing.assert_array_equal(side.lengths, golden[f"{name}__lengths"])


# The digests are of rows that t5 0.9.4's own preprocessors, composed as in the UL2 paper's appendix
# 9.2, made with TensorFlow 2.21 and SeqIO 0.0.20.
@pytest.mark.parametrize(
    ("objective", "seed", "max_rows", "expected"),
    [
        (
            UL2Objective(
                spans=SPANS,
                prefix_lm=True,
                rates=(0.2, 0.2, 0.1, 0.1, 0.1, 0.1, 0.2),
                prefixes=((9,),) * 2 + ((8, 7),) * 4 + ((6,),),
                reserved=1,
                shard=False,
            ),
            42,
            60,
            "7015224185d81dad55af43294a0b2d2375d93585",
        ),
        (
            UL2Objective(spans=SPANS[:2], prefix_lm=True, prefixes=((9,), (8,), (6,)), reserved=1),
            5,
            None,
            "ecd5da8a55190c169f323f4640fe3420fef449f2",
        ),
    ],
)
def test_ul2_objective_is_that_of_the_appendix(documents, objective, seed, max_rows, expected):
    sides = ul2_objective(documents, objective, seed=seed, vocab=VOCAB, max_rows=max_rows)
    assert digest(sides) == expected


def test_targets_that_do_not_fit_are_refused(documents):
    objective = UL2Objective(spans=((3.0, 0.5),), targets_length=114)
    with pytest.raises(ValueError, match=r"mean 3\.0, rate 0\.5\) makes 512 targets, more than"):
        ul2_objective(documents, objective, seed=0, vocab=VOCAB)
    with pytest.raises(ValueError, match=r"Span corruption .* makes 114 targets, more than .*=50"):
        span_corruption(documents, seed=0, vocab=VOCAB, targets_length=50)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"spans": ()}, "no denoisers: give spans, or prefix_lm=True"),
        ({"prefixes": ((1,),)}, r"1 prefixes \(\(1,\),\) for 2 denoisers"),
        ({"prefixes": ((1,),) * 3}, "3 prefixes"),
        ({"prefix_lm": True, "prefixes": ((1,),) * 2}, "2 prefixes .* for 3 denoisers"),
        ({"rates": (1.0,)}, r"1 rates \(1.0,\) for 2 denoisers"),
        ({"rates": (1.0, 2.0, 3.0)}, "3 rates"),
        ({"rates": (1.0, -1.0)}, "none may be negative"),
        ({"rates": (1.0, float("nan"))}, "none may be negative"),
        ({"rates": (0.0, 0.0)}, "one must be positive"),
    ],
)
def test_objectives_that_do_not_fit_together_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        UL2Objective(**{"spans": SPANS[:2], **fields})


def test_a_denoiser_of_rate_zero_never_comes_and_does_not_hold_up_the_others(documents):
    """TensorFlow leaves it out before it mixes."""
    both = UL2Objective(spans=SPANS[:2], rates=(1.0, 0.0), shard=False)
    alone = UL2Objective(spans=SPANS[:1], shard=False)
    expected, ours = (
        ul2_objective(documents, objective, seed=0, vocab=VOCAB) for objective in (alone, both)
    )
    assert digest(ours) == digest(expected)


def test_nothing_in_nothing_out(documents):
    nothing, objective = Ragged.from_rows([]), UL2Objective(spans=SPANS[:2], prefix_lm=True)
    for sides in (
        span_corruption(nothing, seed=0, vocab=VOCAB),
        span_corruption(documents, seed=0, vocab=VOCAB, max_rows=0),
        ul2_objective(nothing, objective, seed=0, vocab=VOCAB),
        ul2_objective(documents, objective, seed=0, vocab=VOCAB, max_rows=0),
    ):
        assert [len(side) for side in sides] == [0, 0]


def test_dataset_choices_never_turns_to_a_weight_of_zero():
    chosen = dataset_choices([0.0, 0.75, 0.25, 0.0], 3, 400)
    assert set(chosen) == {1, 2}
    assert abs(np.mean(chosen == 1) - 0.75) < 0.11
