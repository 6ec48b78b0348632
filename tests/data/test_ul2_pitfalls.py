"""One test for each way in which UL2 pipelines are known to go wrong silently.

Two more are tested where they are closed: sentinels of rolled masks and their numbers
(`test_denoise.py`), id 0 lost in concatenation (`test_chunks.py`).
"""

import collections
import dataclasses

import numpy as np
import pytest

from ul2tune.data import rng
from ul2tune.data.ragged import Ragged
from ul2tune.data.ul2 import PRESETS, Denoiser, UL2Config, UL2Noise, VocabInfo

VOCAB = VocabInfo(
    vocab_size=33000, num_sentinels=1000, mode_ids={"R": (33000,), "S": (33001,), "X": (33002,)}
)
T5_VOCAB = dataclasses.replace(VOCAB, vocab_size=32100, num_sentinels=100)


def one(**fields) -> UL2Config:
    """A mixture of a single denoiser."""
    return UL2Config(denoisers=(Denoiser(name="D", **fields),))


def text(lengths) -> Ragged:
    lengths = np.asarray(lengths, np.int64)
    return Ragged((np.arange(lengths.sum()) % 31000).astype(np.int32), lengths)


def test_one_long_span_is_not_stuck_to_the_tail():
    """(64, .15) at 512 is one span; T5's masks always make it the last tokens."""
    raw = 600
    starts = {}
    for placement in ("tail", "random", "roll"):
        config = one(kind="span", rate=0.15, mean_span=64.0, placement=placement)
        noise = UL2Noise(config, VOCAB)
        inputs, _ = noise.apply(text([raw] * 2000), 0, rng.fold_in(1, np.arange(2000)))
        starts[placement] = np.array([np.argmax(row >= 31000) for row in inputs])
    kept = raw - 90
    assert set(starts["tail"]) == {kept}
    for placement in ("random", "roll"):
        assert np.unique(starts[placement]).size > kept * 0.9
    quarters = np.histogram(starts["random"], bins=4, range=(0, kept + 1))[0]
    np.testing.assert_allclose(quarters, 500, atol=5 * (2000 * 3 / 16) ** 0.5)


def test_a_roll_takes_every_offset_equally_often():
    """Of 6 tokens, 3 of them one span at the end: six rotations, as T5's offsets 0 … 5."""
    config = one(kind="span", rate=0.5, mean_span=64.0, placement="roll")
    tokens = Ragged(np.tile(np.arange(10, 16, dtype=np.int32), 6000), np.full(6000, 6))
    _, targets = UL2Noise(config, VOCAB).apply(tokens, 0, rng.fold_in(0, np.arange(6000)))
    hidden = collections.Counter(
        tuple((row[(row >= 10) & (row < 16)] - 10).tolist()) for row in targets
    )
    rotations = {tuple(sorted((first + i) % 6 for i in range(3))) for first in range(6)}
    assert hidden.keys() <= rotations
    for rotation in rotations:
        assert abs(hidden[rotation] - 1000) < 5 * (6000 * 5 / 36) ** 0.5


def test_wrapped_span_of_a_rolled_mask_is_in_the_lengths():
    config = one(kind="span", rate=0.5, mean_span=8.0, placement="roll")
    noise = UL2Noise(config, VOCAB)
    keys = rng.fold_in(0, np.arange(500))
    inputs, targets = noise.apply(text([100] * 500), 0, keys)
    assert set(inputs.lengths) == {57, 58}  # 50 kept + 6 spans + EOS, and one more when wrapped
    np.testing.assert_array_equal(inputs.lengths - 51, targets.lengths - 51)
    assert noise.max_raw(0, 57, 57) < 100 <= noise.max_raw(0, 58, 58)


def test_too_few_sentinels_say_what_to_change():
    noise = UL2Noise(PRESETS["ul2"], T5_VOCAB)
    number = PRESETS["ul2"].index("X1")
    message = (
        r"'X1' needs 128 sentinels for a segment of 766 tokens, but the vocabulary has 100: use a "
        r"vocabulary with extra_ids >= 128, segments of at most 602 tokens, or max_spans=100"
    )
    with pytest.raises(ValueError, match=message):
        noise.apply(text([500, 766]), [0, number], rng.fold_in(0, [1, 2]))
    with pytest.raises(ValueError, match="'X1' needs 128 sentinels"):
        noise.lengths(number, 766, 0)
    with pytest.raises(ValueError, match="'X1' needs"):
        noise.max_raw(number, 512, 512)
    # Each of the three proposals works.
    enough = dataclasses.replace(T5_VOCAB, num_sentinels=128)
    UL2Noise(PRESETS["ul2"], enough).apply(text([766]), number, 0)
    noise.apply(text([602]), number, 0)
    with pytest.raises(ValueError, match="needs 101"):
        noise.apply(text([603]), number, 0)
    capped = dataclasses.replace(PRESETS["ul2"].denoisers[number], max_spans=100)
    inputs, _ = UL2Noise(UL2Config(denoisers=(capped,)), T5_VOCAB).apply(text([766]), 0, 0)
    assert inputs.values.min() >= 0
    assert np.sum(inputs.values >= 32000) == 100 + 1  # sentinels and the mode
    cut = UL2Config(denoisers=(Denoiser(name="S", kind="prefix", rate=0.5, sentinel=True),))
    with pytest.raises(ValueError, match="or sentinel=False on the denoiser"):
        UL2Noise(cut, VocabInfo(vocab_size=100, num_sentinels=0)).lengths(0, 9, 0)


@pytest.mark.parametrize(("rate", "longest"), [(0.5, 602), (1e-4, 3_014_999)])
def test_a_length_meant_as_no_limit_is_refused_with_the_one_that_fits(rate, longest):
    """At once: as an array, all the shorter ones would not fit into memory."""
    noise = UL2Noise(one(kind="span", rate=rate, mean_span=3.0), T5_VOCAB)
    with pytest.raises(ValueError, match=f"segments of at most {longest} tokens"):
        noise.check_sentinels(0, 2**50)
    noise.check_sentinels(0, longest)
    with pytest.raises(ValueError, match="needs 101 sentinels"):
        noise.check_sentinels(0, longest + 1)


def test_lengths_use_the_masks_arithmetic():
    """Feature lengths 127 and 128 with (64, .15), where T5's helper plans inputs one too short."""
    noise = UL2Noise(one(kind="span", rate=0.15, mean_span=64.0), VOCAB)
    for features in (127, 128, 512):
        raw = noise.max_raw(0, features, features)
        inputs, targets = noise.apply(text([raw]), 0, 0)
        assert inputs.lengths[0] == features
        assert inputs[0][-1] == VOCAB.eos_id
        assert (inputs[0] == VOCAB.vocab_size - 1).sum() == 1  # the sentinel was not cut off
        assert (targets[0] == VOCAB.vocab_size - 1).sum() == 1


@pytest.mark.parametrize("size", [1, 2, 5])
def test_text_prefix_reserves_exactly_its_length(size):
    plain = UL2Noise(PRESETS["ul2"].without_modes(), VOCAB)
    ids = tuple(range(40, 40 + size))
    config = dataclasses.replace(PRESETS["ul2"], mode_tokens=dict.fromkeys("RSX", ids))
    noise = UL2Noise(config, VOCAB)
    for number, name in enumerate(noise.names):
        raw = noise.max_raw(number, 512, 512)
        assert raw == plain.max_raw(number, 512 - size, 512), name
        inputs, targets = noise.apply(text([raw] * 50), number, rng.fold_in(1, np.arange(50)))
        assert inputs.lengths.max() <= 512
        assert inputs[7][:size].tolist() == list(ids)
        bare = plain.apply(text([raw] * 50), number, rng.fold_in(1, np.arange(50)))
        np.testing.assert_array_equal(targets.values, bare[1].values)
        np.testing.assert_array_equal(inputs[7][size:], bare[0][7])


def test_denoiser_is_drawn_per_example_at_the_rates():
    config = PRESETS["ul2r"]
    drawn = UL2Noise(config, VOCAB).draw(rng.fold_in(0, np.arange(40_000)))
    shares = np.bincount(drawn, minlength=4) / drawn.size
    np.testing.assert_allclose(shares, config.probabilities, atol=0.0125)
    repeats = np.mean(drawn[1:] == drawn[:-1])  # neighbours are independent, not sharded
    assert abs(repeats - sum(p * p for p in config.probabilities)) < 0.0125


def test_same_span_numbering_for_every_vocabulary_size():
    for vocab in (T5_VOCAB, VocabInfo(vocab_size=5000, num_sentinels=100)):
        noise = UL2Noise(one(kind="span", rate=0.3, mean_span=2.0), vocab)
        tokens = Ragged(np.full(60, 7, np.int32), np.array([60]))
        inputs, targets = noise.apply(tokens, 0, rng.fold_in(0, [1]))
        sentinels = vocab.vocab_size - 1 - np.arange(9)
        for side in (inputs, targets):
            np.testing.assert_array_equal(side.values[side.values > 7], sentinels)


def test_ids_zero_and_one_in_the_text_survive():
    tokens = Ragged.from_rows([[0, 5, 0, 0, 1, 6, 0, 1]])
    for name, config in PRESETS.items():
        noise = UL2Noise(config, VOCAB)
        for number in range(len(noise.names)):
            inputs, targets = noise.apply(tokens, number, rng.fold_in(4, [2]))
            assert noise.undo(inputs[0], targets[0], number).tolist() == tokens[0].tolist(), name
