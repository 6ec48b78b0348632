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


def test_dataset_choices_never_turns_to_a_weight_of_zero():
    chosen = dataset_choices([0.0, 0.75, 0.25, 0.0], 3, 400)
    assert set(chosen) == {1, 2}
    assert abs(np.mean(chosen == 1) - 0.75) < 0.11
