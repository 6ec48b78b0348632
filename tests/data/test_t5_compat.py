"""T5's own results from their seeds."""

import numpy as np
import pytest

from ul2tune.data import t5_compat
from ul2tune.data.ragged import Ragged
from ul2tune.data.tf_rng import stateless_split
from ul2tune.data.ul2 import PRESETS, UL2Noise
from ul2tune.data.vocab_info import VocabInfo

VOCAB = VocabInfo(vocab_size=32100, num_sentinels=1000)  # T5 uses word pieces beyond 100, unasked


def test_helper_matches_golden(shared):
    for length, mean, rate, tokens, targets in np.load(shared / "golden/ul2/helper.npz")["rows"]:
        ours = t5_compat.random_spans_helper(int(length), rate, mean)
        assert ours == (tokens, targets), (length, mean, rate)


@pytest.mark.parametrize(("key", "roll"), [("mask", False), ("mask_random_roll", True)])
def test_masks_match_golden(shared, key, roll):
    golden = np.load(shared / "golden/ul2/noise_masks.npz")
    rows = Ragged(golden[f"{key}__values"], golden[f"{key}__lengths"].astype(np.int64))
    meta = golden["meta_length_mu_r_s00_s01_s10_s11"]
    assert len(rows) == len(meta)
    for row, (length, mean, rate, *words) in zip(rows, meta, strict=True):
        seeds = np.array(words, np.int64).reshape(2, 2)
        ours = t5_compat.random_spans_mask(int(length), rate, mean, seeds, roll)
        np.testing.assert_array_equal(ours, row.astype(bool), err_msg=str((length, mean, rate)))


def test_prefixes_match_golden(shared):
    golden = np.load(shared / "golden/ul2/prefix_masks.npz")
    meta = golden["meta_length_density_s0_s1"]
    for (length, rate, *seed), prefix in zip(meta, golden["prefix_len"], strict=True):
        pair = [int(word) for word in seed]
        assert t5_compat.random_prefix_length(int(length), rate, pair) == prefix


def test_denoised_examples_match_golden(shared):
    golden = np.load(shared / "golden/ul2/denoise.npz")
    inputs, targets = (
        Ragged(golden[f"{side}__values"], golden[f"{side}__lengths"].astype(np.int64))
        for side in ("inputs", "targets")
    )
    for i, row in enumerate(golden["meta_length_mu_r_seed0_seed1_k"]):
        length, mean, rate, *seed, k = row
        tokens = (np.arange(int(length)) * 31 + 7 * int(k)) % 31000 + 3
        pair = [int(word) for word in seed]
        ours = t5_compat.span_corrupt(tokens, rate, mean, pair, VOCAB)
        np.testing.assert_array_equal(ours[0], inputs[i])
        np.testing.assert_array_equal(ours[1], targets[i])


def unique_sentinels(tokens: np.ndarray, noise: np.ndarray) -> np.ndarray:
    """T5's `noise_span_to_unique_sentinel`; of the mask's opposite it is what T5 calls
    `nonnoise_span_to_unique_sentinel`."""
    before = np.pad(noise[:-1], (1, 0))
    first = noise & ~before
    marked = np.where(first, VOCAB.vocab_size - np.cumsum(first), tokens)
    return marked[~(noise & before)]


@pytest.mark.parametrize(("rate", "mean"), [(0.15, 3.0), (0.5, 3.0), (0.15, 8.0), (0.25, 64.0)])
def test_rolled_examples_are_t5s_but_for_how_targets_line_up(rate, mean):
    ends = set()
    for length in (2, 17, 60, 250):
        tokens = np.arange(length) + 3
        for k in range(12):
            mask_seeds = stateless_split((length, k), 6)[:2]
            mask = t5_compat.random_spans_mask(length, rate, mean, mask_seeds, True)
            inputs, targets = t5_compat.span_corrupt(
                tokens, rate, mean, (length, k), VOCAB, random_roll=True
            )
            np.testing.assert_array_equal(inputs, unique_sentinels(tokens, mask))
            # Theirs have a sentinel for every kept span: none before noise that comes first, and
            # one more after noise that kept tokens follow to the end.
            theirs = unique_sentinels(tokens, ~mask)
            if mask[0]:
                behind = np.where(theirs > tokens[-1], theirs - 1, theirs)
                theirs = np.append([VOCAB.sentinels[0]], behind)
            if not mask[-1]:
                theirs = theirs[:-1]
            np.testing.assert_array_equal(targets, theirs)
            ends.add((bool(mask[0]), bool(mask[-1])))
    assert len(ends) == 4


@pytest.mark.parametrize(("length", "rate"), [(1, 0.15), (1, 0.9), (12, 0.0)])
def test_a_segment_without_noise_keeps_its_sentinel(length, rate):
    """T5 puts one into the targets for every kept span, also where there is no other."""
    inputs, targets = t5_compat.span_corrupt(np.arange(length) + 3, rate, 3.0, (1, 2), VOCAB)
    assert inputs.tolist() == list(range(3, length + 3))
    assert targets.tolist() == [32099]
    assert targets.dtype == inputs.dtype


def test_an_empty_segment_has_no_sentinel():
    sides = t5_compat.span_corrupt(np.array([], np.int64), 0.15, 3.0, (1, 2), VOCAB)
    assert [side.size for side in sides] == [0, 0]


def test_small_cases_of_our_own():
    seeds = [(1, 2), (3, 4)]
    mask = t5_compat.random_spans_mask(32, 0.25, 2.0, seeds)
    assert "".join(map(str, mask.astype(int))) == "00000011101110000000000000001001"
    assert not t5_compat.random_spans_mask(5, 0.0, 3.0, seeds).any()
    assert t5_compat.random_spans_mask(1, 0.15, 3.0, seeds).tolist() == [False]
    assert t5_compat.random_spans_mask(0, 0.15, 3.0, seeds).size == 0
    assert [t5_compat.random_prefix_length(length, 0.5, (1, 2)) for length in (0, 1, 2)] == [
        0,
        0,
        1,
    ]
    assert [side.size for side in t5_compat.prefix_split(np.array([7]), 0.5, (1, 2))] == [0, 1]
    with pytest.raises(ValueError, match=r"no prefix mask for rate 0\.75"):
        t5_compat.random_prefix_length(10, 0.75, (0, 0))


def test_more_spans_than_sentinels_are_refused():
    vocab = VocabInfo(vocab_size=32100, num_sentinels=100)
    message = (
        "766 tokens has 128 noise spans, but the vocabulary has 100 sentinels: .* at least 128"
    )
    with pytest.raises(ValueError, match=message):
        t5_compat.span_corrupt(np.arange(766), 0.5, 3.0, (1000, 77), vocab)


def test_our_lengths_are_t5s_rows():
    """The counts our feed plans with are those of rows made by T5's arithmetic."""
    noise = UL2Noise(PRESETS["span_corruption"], VOCAB)
    for length in (2, 3, 17, 190, 350, 568):
        sides = t5_compat.span_corrupt(np.arange(length) + 3, 0.15, 3.0, (length, 7), VOCAB)
        planned = noise.lengths(0, length, 0)
        assert [side.size + 1 for side in sides] == [int(n[0]) for n in planned]


def test_helper_disagrees_with_the_mask_where_it_is_documented_to():
    """Pitfall: T5 plans 142 targets for 640 inputs, its mask makes more; ours always fits."""
    tokens, targets = t5_compat.random_spans_helper(640, 0.15, 3.0)
    noise = UL2Noise(PRESETS["span_corruption"], VOCAB)
    inputs_N, targets_N = noise.lengths(0, tokens, 0)
    assert targets == 142
    assert int(targets_N[0]) == 144
    raw = noise.max_raw(0, 640, 142)
    inputs_N, targets_N = noise.lengths(0, np.arange(1, raw + 1), 0)
    assert inputs_N.max() <= 640
    assert targets_N.max() <= 142
