"""Inputs and targets from spans, and back."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ul2tune.data.denoise import Frame, corrupt, restore
from ul2tune.data.ragged import Ragged
from ul2tune.data.spans import from_mask
from ul2tune.data.vocab_info import VocabInfo

VOCAB = VocabInfo(vocab_size=1000, num_sentinels=100)
property_test = settings(max_examples=100, deadline=None, derandomize=True)


def frame(count: int, *, prefix=(), sentinels=True, **more) -> Frame:
    return Frame(
        prefixes=Ragged.from_rows([prefix]),
        denoiser_N=np.zeros(count, np.int64),
        sentinels_N=np.full(count, sentinels),
        **more,
    )


def by_hand(tokens, mask, prefix, sentinels, eos):
    """The definition, one token at a time."""
    inputs, targets, number, before = list(prefix), [], -1, False
    for token, noise in zip(tokens, mask, strict=True):
        if noise and not before:
            number += 1
            if sentinels:
                inputs.append(999 - number)
                targets.append(999 - number)
        (targets if noise else inputs).append(token)
        before = noise
    return inputs + [1] * eos[0], targets + [1] * eos[1]


MASKS = st.lists(st.lists(st.booleans(), max_size=40), min_size=1, max_size=5)


@property_test
@given(
    masks=MASKS,
    prefix=st.lists(st.integers(1000, 1003), max_size=3),
    sentinels=st.booleans(),
    eos=st.tuples(st.booleans(), st.booleans()),
    base=st.integers(0, 700),
)
def test_any_mask_gives_what_the_definition_says(masks, prefix, sentinels, eos, base):
    rows = [[base + i % 7 for i in range(len(mask))] for mask in masks]
    around = frame(
        len(rows), prefix=prefix, sentinels=sentinels, inputs_eos=eos[0], targets_eos=eos[1]
    )
    inputs, targets = corrupt(
        Ragged.from_rows(rows), from_mask(Ragged.from_rows(masks, dtype=bool)), around, VOCAB
    )
    for i, (row, mask) in enumerate(zip(rows, masks, strict=True)):
        expected = by_hand(row, mask, prefix, sentinels, eos)
        assert (inputs[i].tolist(), targets[i].tolist()) == expected
        if sentinels:
            sides = (
                inputs[i][: len(inputs[i]) - eos[0]],
                targets[i][: len(targets[i]) - eos[1]],
            )
            assert restore(*sides, np.array(prefix, np.int32), True, VOCAB).tolist() == row


def test_only_marked_spans_need_sentinels():
    mask = Ragged.from_rows([[0, 1], [0, 1] * 101], dtype=bool)
    tokens = Ragged.from_rows([[5, 6], [5, 6] * 101])
    with pytest.raises(ValueError, match=r"202 tokens has 101 noise spans, but .* 100 sentinels"):
        corrupt(tokens, from_mask(mask), frame(2), VOCAB)
    _, targets = corrupt(tokens, from_mask(mask), frame(2, sentinels=False), VOCAB)
    assert targets.lengths.tolist() == [2, 102]


def test_rolled_mask_keeps_sentinels_aligned():
    """Pitfall: T5 makes of this mask `999 11 12 998 15` and `10 999 13 14 998`."""
    mask = Ragged.from_rows([[1, 0, 0, 1, 1, 0]], dtype=bool)
    tokens = Ragged.from_rows([[10, 11, 12, 13, 14, 15]])
    inputs, targets = corrupt(tokens, from_mask(mask), frame(1), VOCAB)
    assert inputs[0].tolist() == [999, 11, 12, 998, 15, 1]
    assert targets[0].tolist() == [999, 10, 998, 13, 14, 1]


def test_sentinels_count_down_from_the_vocabulary_not_from_padded_rows():
    """Pitfall: sentinel 0 of T5 is 32099 (32000 pieces + 100), whatever rows the embedding has."""
    vocab = VocabInfo(vocab_size=32100, num_sentinels=100, mode_ids={"R": (32100,)})
    mask = Ragged.from_rows([[0, 1, 0, 1]], dtype=bool)
    inputs, _ = corrupt(Ragged.from_rows([[5, 6, 7, 8]]), from_mask(mask), frame(1), vocab)
    assert inputs[0].tolist() == [5, 32099, 7, 32098, 1]


def test_restore_refuses_sides_that_do_not_belong_together():
    inputs, targets = np.array([5, 999, 7]), np.array([999, 6])
    none = np.array([], np.int32)
    assert restore(inputs, targets, none, True, VOCAB).tolist() == [5, 6, 7]
    with pytest.raises(ValueError, match="not with the mode tokens"):
        restore(inputs, targets, np.array([1000]), True, VOCAB)
    with pytest.raises(ValueError, match=r"Sentinel 0 \(id 999\) is not where"):
        restore(np.array([5, 7]), targets, none, True, VOCAB)
    with pytest.raises(ValueError, match=r"Sentinel 0 \(id 999\) is not where"):
        restore(inputs, np.array([6]), none, True, VOCAB)
    with pytest.raises(ValueError, match=r"Sentinel 1 \(id 998\) is not where"):
        restore(inputs, np.array([999, 6, 998, 8]), none, True, VOCAB)
    few = VocabInfo(vocab_size=1000, num_sentinels=1)
    with pytest.raises(ValueError, match="another vocabulary"):
        restore(np.array([5, 999, 998]), np.array([999, 6, 998, 8]), none, True, few)


def test_another_end_of_sequence_ends_both_sides():
    vocab = VocabInfo(vocab_size=1000, num_sentinels=100, eos_id=7, pad_id=3)
    mask = Ragged.from_rows([[0, 1, 0], [1]], dtype=bool)
    inputs, targets = corrupt(Ragged.from_rows([[5, 1, 6], [1]]), from_mask(mask), frame(2), vocab)
    assert [row.tolist() for row in inputs] == [[5, 999, 6, 7], [999, 7]]
    assert [row.tolist() for row in targets] == [[999, 1, 7], [999, 1, 7]]
