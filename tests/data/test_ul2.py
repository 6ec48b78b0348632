"""The noise as a whole: every denoiser, length and seed."""

import dataclasses

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from ul2tune.data import rng
from ul2tune.data.ragged import Ragged
from ul2tune.data.ul2 import PRESETS, Denoiser, UL2Config, UL2Noise, VocabInfo

VOCAB = VocabInfo(
    vocab_size=32100 + 900,
    num_sentinels=1000,
    mode_ids={m: (33000 + i,) for i, m in enumerate("RSX")},
)
T5_VOCAB = dataclasses.replace(VOCAB, vocab_size=32100, num_sentinels=100)
property_test = settings(max_examples=80, deadline=None, derandomize=True)

FRACTIONS = st.floats(0.02, 0.98)
MODES = st.sampled_from([None, "R", "S", "X"])
DENOISERS = st.one_of(
    st.builds(
        Denoiser,
        name=st.just("span"),
        kind=st.just("span"),
        rate=FRACTIONS,
        mean_span=st.sampled_from([1.0, 2.5, 3.0, 8.0, 64.0]),
        mode=MODES,
        placement=st.sampled_from(["random", "tail", "roll"]),
        max_spans=st.sampled_from([None, 1, 5]),
    ),
    st.builds(
        Denoiser,
        name=st.just("prefix"),
        kind=st.just("prefix"),
        rate=FRACTIONS,
        mode=MODES,
        pivot=st.sampled_from(["uniform", "fixed"]),
        sentinel=st.booleans(),
    ),
    st.builds(
        Denoiser,
        name=st.just("normal"),
        kind=st.just("prefix"),
        rate=FRACTIONS,
        pivot=st.just("truncated_normal"),
        pivot_std=st.floats(0.01, 1.0),
        sentinel=st.booleans(),
    ),
    st.builds(Denoiser, name=st.just("causal"), kind=st.just("causal"), mode=MODES),
)
MIXTURES = st.builds(
    UL2Config,
    denoisers=st.lists(DENOISERS, min_size=1, max_size=4, unique_by=lambda d: d.name).map(tuple),
    inputs_eos=st.booleans(),
    targets_eos=st.booleans(),
)
PRESET_MIXTURES = st.sampled_from(sorted(PRESETS)).map(PRESETS.__getitem__)
SEEDS = st.integers(0, 2**64 - 1)


def one(**fields) -> UL2Config:
    """A mixture of a single denoiser."""
    return UL2Config(denoisers=(Denoiser(name="D", **fields),))


def text(lengths) -> Ragged:
    """Tokens of which some are 0 (padding's id) and 1 (EOS's id)."""
    lengths = np.asarray(lengths, np.int64)
    return Ragged((np.arange(lengths.sum()) % 31000).astype(np.int32), lengths)


@property_test
@given(
    config=st.one_of(MIXTURES, PRESET_MIXTURES),
    lengths=st.lists(st.integers(0, 700), min_size=1, max_size=8),
    seed=SEEDS,
)
def test_lengths_are_exact_and_undo_restores(config, lengths, seed):
    noise = UL2Noise(config, VOCAB)
    keys = rng.fold_in(seed, np.arange(len(lengths)))
    drawn, tokens = noise.draw(keys), text(lengths)
    inputs, targets = noise.apply(tokens, drawn, keys)
    inputs_N, targets_N = noise.lengths(drawn, lengths, keys)
    np.testing.assert_array_equal(inputs.lengths, inputs_N)
    np.testing.assert_array_equal(targets.lengths, targets_N)
    assert inputs.values.dtype == targets.values.dtype == np.int32
    for i, row in enumerate(tokens):
        mode = config.denoisers[drawn[i]].mode
        if mode is not None:
            assert inputs[i][0] == VOCAB.mode_ids[mode][0]
        assert not np.isin(targets[i], [33000, 33001, 33002]).any()  # modes are on inputs only
        if config.inputs_eos:
            assert inputs[i][-1] == VOCAB.eos_id
        if config.targets_eos:
            assert targets[i][-1] == VOCAB.eos_id
        np.testing.assert_array_equal(noise.undo(inputs[i], targets[i], int(drawn[i])), row)


@property_test
@given(
    config=st.one_of(MIXTURES, PRESET_MIXTURES),
    inputs_length=st.integers(4, 700),
    targets_length=st.integers(4, 700),
    seed=SEEDS,
)
def test_segments_up_to_max_raw_never_exceed_the_features(
    config, inputs_length, targets_length, seed
):
    noise = UL2Noise(config, VOCAB)
    for number in range(len(config.denoisers)):
        try:
            longest = noise.max_raw(number, inputs_length, targets_length)
        except ValueError:
            assume(False)
        raw = np.arange(longest + 1)
        inputs, targets = noise.apply(text(raw), number, rng.fold_in(seed, raw))
        assert inputs.lengths.max() <= inputs_length
        assert targets.lengths.max() <= targets_length
        most = noise.largest(number, raw)
        assert np.all(inputs.lengths <= most.inputs)
        assert np.all(targets.lengths <= most.targets)
        assert np.all(inputs.lengths + targets.lengths <= most.both)


@property_test
@given(config=MIXTURES, length=st.integers(2, 300), features=st.tuples(*[st.integers(8, 200)] * 2))
def test_max_raw_is_the_largest(config, length, features):
    """Some draw of the next longer segment does not fit (cuts and rolls are tried many times)."""
    noise = UL2Noise(config, VOCAB)
    denoiser = config.denoisers[0]
    assume(denoiser.pivot != "truncated_normal")  # its far tails may be too rare to be met
    longest = noise.max_raw(0, *features)
    keys = rng.fold_in(length, np.arange(3000))
    inputs_N, targets_N = noise.lengths(0, longest + 1, keys)
    assert inputs_N.max() > features[0] or targets_N.max() > features[1]


@property_test
@given(
    rate=FRACTIONS,
    length=st.integers(2, 700),
    seed=SEEDS,
    placement=st.sampled_from(["random", "tail"]),
)
def test_masks_cover_the_rate(rate, length, seed, placement):
    config = one(kind="span", rate=rate, mean_span=3.0, placement=placement)
    _, targets = UL2Noise(config, VOCAB).apply(text([length]), 0, rng.fold_in(seed, [0]))
    predicted = np.sum(targets.values < 31000) - 1  # without EOS
    assert abs(predicted - np.clip(rate * length, 1, length - 1)) <= 0.5 + 1e-3


def test_example_depends_on_its_own_key_only():
    noise = UL2Noise(PRESETS["ul2"], VOCAB)
    keys = rng.fold_in(3, np.arange(40))
    tokens, drawn = text(np.arange(40) * 17), noise.draw(keys)
    inputs, targets = noise.apply(tokens, drawn, keys)
    for i in (0, 1, 7, 39):
        own = slice(i, i + 1)
        alone = noise.apply(tokens.take(np.array([i])), noise.draw(keys[own]), keys[own])
        np.testing.assert_array_equal(alone[0].values, inputs[i])
        np.testing.assert_array_equal(alone[1].values, targets[i])
    assert not np.array_equal(
        noise.apply(tokens, drawn, keys + np.uint64(1))[0].values, inputs.values
    )


def test_noise_never_changes():
    """A resumed run draws what the stopped one would have: changing these ids breaks that."""
    noise = UL2Noise(PRESETS["ul2r"], VOCAB)
    keys = rng.fold_in(0, np.arange(4))
    inputs, targets = noise.apply(text([12] * 4), np.arange(4), keys)
    assert [row.tolist() for row in inputs] == [
        [33000, 0, 32999, 3, 4, 5, 6, 7, 8, 9, 10, 11, 1],
        [33002, 12, 13, 14, 15, 32999, 18, 19, 20, 21, 22, 23, 1],
        [33002, 32999, 26, 32998, 31, 32, 33, 34, 35, 1],
        [33001, 36, 37, 38, 39, 40, 41, 42, 43, 44, 45, 1],
    ]
    assert [row.tolist() for row in targets] == [
        [32999, 1, 2, 1],
        [32999, 16, 17, 1],
        [32999, 24, 25, 32998, 27, 28, 29, 30, 1],
        [46, 47, 1],
    ]


def test_lengths_for_512_are_those_of_the_table():
    """Raw tokens and targets of T5's arithmetic, with one place reserved for the mode."""
    noise = UL2Noise(PRESETS["ul2"], VOCAB)
    expected = {
        "R1": (567, 114),
        "R2": (587, 100),
        "X1": (765, 510),
        "X2": (906, 511),
        "X3": (599, 92),
        "X4": (1004, 511),
    }
    for name, (raw, targets) in expected.items():
        number = PRESETS["ul2"].index(name)
        inputs_N, targets_N = noise.lengths(number, raw, 0)
        assert inputs_N[0] <= 512, name
        assert targets_N[0] == targets, name
        # At rate .5 T5 keeps the targets no longer than the reduced inputs (511), not 512.
        slack = 1 if name == "X2" else 0
        assert noise.max_raw(number, 512, 512) == raw + slack, name


def test_sentinel_of_the_prefix_denoiser():
    tokens = text([10])
    plain = UL2Noise(one(kind="prefix", rate=0.3, pivot="fixed"), VOCAB).apply(tokens, 0, 0)
    marked = UL2Noise(one(kind="prefix", rate=0.3, pivot="fixed", sentinel=True), VOCAB)
    inputs, targets = marked.apply(tokens, 0, 0)
    assert [side.values.tolist() for side in plain] == [[0, 1, 2, 3, 4, 5, 6, 1], [7, 8, 9, 1]]
    assert inputs.values.tolist() == [0, 1, 2, 3, 4, 5, 6, 32999, 1]
    assert targets.values.tolist() == [32999, 7, 8, 9, 1]


def test_causal_lm_has_empty_inputs():
    inputs, targets = UL2Noise(PRESETS["causal_lm"], VOCAB).apply(text([5]), 0, 0)
    assert inputs.values.tolist() == [1]
    assert targets.values.tolist() == [0, 1, 2, 3, 4, 1]


BASE = {"kind": "span", "rate": 0.3, "mean_span": 3.0}
CUT = {"kind": "prefix", "rate": 0.3}


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (BASE, {**BASE, "rate": 0.4}),
        (BASE, {**BASE, "mean_span": 5.0}),
        (BASE, {**BASE, "mode": "R"}),
        (BASE, {**BASE, "placement": "tail"}),
        ({**BASE, "placement": "tail"}, {**BASE, "placement": "roll"}),
        (BASE, {**BASE, "max_spans": 2}),
        (BASE, CUT),
        (CUT, {**CUT, "pivot": "fixed"}),
        (CUT, {**CUT, "pivot": "truncated_normal", "pivot_std": 0.1}),
        (
            {**CUT, "pivot": "truncated_normal", "pivot_std": 0.2},
            {**CUT, "pivot": "truncated_normal", "pivot_std": 0.1},
        ),
        (CUT, {**CUT, "sentinel": True}),
    ],
)
def test_every_denoiser_field_changes_the_result(before, after):
    keys = rng.fold_in(0, np.arange(20))
    results = []
    for fields in (before, after):
        inputs, targets = UL2Noise(one(**fields), VOCAB).apply(text([100] * 20), 0, keys)
        results.append((inputs.values.tolist(), targets.values.tolist()))
    assert results[0] != results[1]


def test_every_mixture_field_changes_the_result():
    config = PRESETS["ul2r"]
    keys = rng.fold_in(0, np.arange(20))

    def result(changed):
        noise = UL2Noise(changed, VOCAB)
        inputs, targets = noise.apply(text([100] * 20), noise.draw(keys), keys)
        return inputs.values.tolist(), targets.values.tolist()

    base = result(config)
    for change in (
        {"denoisers": config.denoisers[::-1]},
        {"rates": None},
        {"mode_tokens": {"R": (7,), "S": (8,), "X": (9, 10)}},
        {"inputs_eos": False},
        {"targets_eos": False},
    ):
        assert result(dataclasses.replace(config, **change)) != base, change


def test_no_segments_at_all():
    noise = UL2Noise(PRESETS["ul2"], VOCAB)
    none = np.zeros(0, np.uint64)
    inputs, targets = noise.apply(text([]), noise.draw(none), none)
    assert len(inputs) == len(targets) == 0


def test_modes_must_have_ids():
    config = PRESETS["ul2"]
    bare = VocabInfo(vocab_size=1000, num_sentinels=100)
    with pytest.raises(ValueError, match=r"'R1' announces mode 'R', but the vocabulary reserves"):
        UL2Noise(config, bare)
    new = UL2Config(denoisers=(dataclasses.replace(config.denoisers[0], mode="Q"),))
    with pytest.raises(ValueError, match=r"give UL2Config mode_tokens .* such as {'Q': '\[Q\]'}"):
        UL2Noise(new, VOCAB)
    UL2Noise(dataclasses.replace(new, mode_tokens={"Q": (5,)}), VOCAB)  # as advised
    texts = dataclasses.replace(config, mode_tokens={"R": "[NLU]", "S": "[S2S]", "X": "[NLG]"})
    with pytest.raises(ValueError, match=r"still the text '\[NLU\]': call config.tokenize_modes"):
        UL2Noise(texts, bare)
    with pytest.raises(ValueError, match="mode_tokens are only for"):
        UL2Noise(dataclasses.replace(config, mode_tokens={"R": (5,)}), bare)
    for ids in ((), (950,), (-1,), (bare.eos_id,), (bare.pad_id,)):
        wrong = dataclasses.replace(config, mode_tokens=dict.fromkeys("RSX", ids))
        with pytest.raises(ValueError, match="none of the sentinels 900 to 999"):
            UL2Noise(wrong, bare)


@pytest.mark.parametrize("number", [-1, 7])
def test_numbers_of_denoisers_that_do_not_exist_are_refused(number):
    noise = UL2Noise(PRESETS["ul2"], VOCAB)
    for call in (
        lambda: noise.lengths([0, number], 100, 0),
        lambda: noise.apply(text([100]), number, 0),
        lambda: noise.largest(number, 100),
        lambda: noise.max_raw(number, 512, 512),
        lambda: noise.check_sentinels(number, 100),
        lambda: noise.undo([5, 1], [6, 1], number),
    ):
        with pytest.raises(ValueError, match=rf"no denoiser number {number}: the 7 of this .*R1,"):
            call()


def test_features_without_room_are_refused():
    noise = UL2Noise(PRESETS["ul2"], VOCAB)
    with pytest.raises(ValueError, match="cannot fit one token into 2 inputs and 512 targets"):
        noise.max_raw(0, 2, 512)


def test_undo_wants_eos():
    noise = UL2Noise(PRESETS["prefix_lm"], VOCAB)
    with pytest.raises(ValueError, match=r"Targets end with \[6\], not with EOS \(id 1\)"):
        noise.undo([5, 1], [6], 0)
