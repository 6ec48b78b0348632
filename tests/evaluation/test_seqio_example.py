"""Prepared rows as elements of SeqIO's datasets."""

from __future__ import annotations

import numpy as np
import pytest

from tests.evaluation import prepared
from ul2tune.data.codec import Example
from ul2tune.data.seqio_metrics import SeqioMetrics
from ul2tune.evaluation import seqio_example
from ul2tune.evaluation.seqio_example import as_numpy
from ul2tune.evaluation.tokens import Tokenizer

NOTHING = SeqioMetrics(postprocess=None, of_predictions=(), of_scores=())


def of_row(targets: str, end=(), targets_end=(1,), **fields):
    encode = prepared.VOCABULARY.encode
    arrays = {
        "inputs": np.array(encode("a prompt"), np.int32),
        "targets": np.array([*encode(targets), *end], np.int32),
    }
    tokenizer = Tokenizer(
        vocabulary=prepared.VOCABULARY,
        inputs_length=64,
        inputs_end=[1],
        keeps_end=True,
        targets_end=[*targets_end],
    )
    inputs_S = np.array([*encode("a pro"), 1], np.int32)
    row = Example(arrays=arrays, fields=fields)
    found = seqio_example.of_row(row, NOTHING, prepared.VOCABULARY, tokenizer, inputs_S)
    assert found is not None
    return found


def test_features_are_those_that_the_model_gets():
    found = of_row("yes", inputs_text="a prompt", targets_text=["yes"])
    encode = prepared.VOCABULARY.encode
    assert found.element["inputs"].tolist() == [*encode("a pro"), 1]
    assert found.element["inputs_pretokenized"] == b"a prompt"
    assert found.element["targets_pretokenized"] == b"yes"
    for end, targets_end in (((), (1,)), ((1,), (1,))):  # ended while training, or prepared so
        target_L = of_row("yes", end, targets_end).target_L
        assert target_L.tolist() == [*encode("yes"), 1]
        assert target_L.dtype == np.int32
    assert of_row("yes", (), ()).target_L.tolist() == encode("yes")


@pytest.mark.parametrize("own", [{}, {"targets_text": ["a", "b"]}, {"targets_text": []}])
def test_a_target_without_text_is_decoded(own):
    """Also where the task has a field of the name under which the text is stored."""
    found = of_row("yes", end=[1], **own)
    assert found.target == "yes"
    assert "targets_pretokenized" not in found.element
    assert ("targets_text" in found.element) == bool(own)


@pytest.mark.parametrize(
    ("stored", "expected"),
    [
        ("é", "é".encode()),
        (3, np.int64(3)),
        (0.5, np.float64(0.5)),
        (True, np.True_),
        ([1, 2], np.array([1, 2])),
        ([[1.5], [2.5]], np.array([[1.5], [2.5]])),
        (["a\0", "ü"], np.array([b"a\0", "ü".encode()], object)),
        ([["a"], ["b"]], np.array([[b"a"], [b"b"]], object)),
        ([], np.array([])),
    ],
)
def test_values(stored, expected):
    found = as_numpy(stored)
    assert type(found) is type(expected)
    np.testing.assert_array_equal(found, expected, strict=isinstance(expected, np.ndarray))


def test_fields_in_fields_and_ragged_ones():
    found = as_numpy({"text": ["a"], "start": [[1], [2, 3]], "names": [["a"], ["b", "c"]]})
    assert found["text"].tolist() == [b"a"]
    assert [list(row) for row in found["start"]] == [[1], [2, 3]]
    assert [list(row) for row in found["names"]] == [[b"a"], [b"b", b"c"]]
