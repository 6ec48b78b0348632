"""The UL2 noise in plain SeqIO: `get_dataset`, feature converters, seeds."""

from dataclasses import replace

import numpy as np
import pytest
import seqio

from ul2tune.data import convert, packing, rng
from ul2tune.data.ragged import Ragged
from ul2tune.data.ul2 import UL2Noise, preset
from ul2tune.data.vocab import ByteVocabulary
from ul2tune.prepare.preprocessors import UL2Preprocessor, cut_and_corrupt
from ul2tune.prepare.runtime import tf
from ul2tune.prepare.tasks import register_text_task

LENGTHS = {"inputs": 128, "targets": 128}
VOCABULARY = ByteVocabulary(extra_ids=64)


@pytest.fixture
def ul2(name, words):
    return register_text_task(name, words, format="jsonl", vocabulary=VOCABULARY, objective="ul2")


def rows(task, seed, lengths=LENGTHS, **kwargs):
    dataset = seqio.get_mixture_or_task(task.name).get_dataset(
        lengths, split="train", shuffle=True, seed=seed, **kwargs
    )
    return list(dataset.as_numpy_iterator())


def test_every_row_fits_ends_with_eos_and_undoes(ul2):
    noise = UL2Noise(preset("ul2"), VOCABULARY.info)
    by_mode = {VOCABULARY.info.mode_ids[mode][0]: mode for mode in "RSX"}
    modes, num_tokens = set(), 0
    corpus = set("".join(f"document {i} of the corpus" for i in range(200)))
    for row in rows(ul2, seed=3):
        assert row["inputs"].dtype == row["targets"].dtype == np.int32
        assert row["inputs"].size <= 128
        assert row["targets"].size <= 128
        assert row["inputs"][-1] == row["targets"][-1] == 1
        modes.add(by_mode[int(row["inputs"][0])])
        # Which denoiser it was does not matter for undoing, but S has no sentinels.
        sequential = modes and by_mode[int(row["inputs"][0])] == "S"
        denoiser = next(
            i
            for i, d in enumerate(noise.config.denoisers)
            if d.mode == by_mode[int(row["inputs"][0])] and (d.kind == "prefix") == sequential
        )
        tokens = noise.undo(row["inputs"], row["targets"], denoiser)
        num_tokens += tokens.size
        assert set(VOCABULARY.decode(tokens)) <= corpus
    assert modes == {"R", "S", "X"}
    # Nothing is lost but remainders: about 196 training documents of 25 bytes.
    assert 0.95 * 196 * 25 < num_tokens < 200 * 28


def test_equal_seeds_equal_rows_other_seeds_other_rows(ul2):
    first, again, other = rows(ul2, seed=0), rows(ul2, seed=0), rows(ul2, seed=1)
    assert len(first) == len(again)
    for a, b in zip(first, again, strict=True):
        np.testing.assert_array_equal(a["inputs"], b["inputs"])
        np.testing.assert_array_equal(a["targets"], b["targets"])
    assert any(
        a["inputs"].tolist() != b["inputs"].tolist() for a, b in zip(first, other, strict=False)
    )


def test_epochs_differ(name, tmp_path):
    (tmp_path / "one.txt").write_text("x" * 4000)
    task = register_text_task(
        name, str(tmp_path / "one.txt"), vocabulary=VOCABULARY, validation_fraction=0.0
    )
    both = task.get_dataset(LENGTHS, shuffle=False, seed=0, num_epochs=2)
    found = [row["inputs"].tolist() for row in both.as_numpy_iterator()]
    half = len(found) // 2
    assert found[:half] != found[half : 2 * half]


CONVERTERS = {
    "encoder_decoder": (seqio.EncDecFeatureConverter, LENGTHS, "decoder_target_tokens", 128),
    "prefix_lm": (seqio.PrefixLMFeatureConverter, LENGTHS, "decoder_causal_attention", 256),
    "lm": (seqio.LMFeatureConverter, {"targets": 128}, "decoder_target_tokens", 128),
}


@pytest.mark.parametrize("pack", [False, True])
@pytest.mark.parametrize("converter", CONVERTERS)
def test_seqio_feature_converters(converter, pack, name, words):
    make, lengths, feature, length = CONVERTERS[converter]
    objective = "causal_lm" if converter == "lm" else "ul2"
    task = register_text_task(
        name, words, format="jsonl", vocabulary=VOCABULARY, objective=objective
    )
    dataset = seqio.get_dataset(
        task.name, lengths, make(pack=pack), shuffle=True, seed=0, verbose=False
    )
    batches = list(dataset.as_numpy_iterator())
    assert batches
    assert all(batch[feature].shape == (length,) for batch in batches)
    # All tokens come through, however they are packed.
    count = sum(int(np.sum(batch["decoder_target_tokens"] != 0)) for batch in batches)
    expected = rows(task, seed=0, lengths=lengths)
    features = ("inputs", "targets") if converter == "prefix_lm" else ("targets",)
    assert count == sum(row[f].size for row in expected for f in features)


def test_packing_in_order_is_seqios_over_several_of_its_batches():
    lengths = {"inputs": 20, "targets": 12}
    random = np.random.default_rng(0)

    def examples(longest):
        return [random.integers(2, 99, random.integers(1, longest)) for _ in range(50)]

    sides = {"inputs": examples(20), "targets": examples(12)}
    ragged = {name: Ragged.from_rows(rows) for name, rows in sides.items()}
    signature = {name: tf.TensorSpec([None], tf.int32) for name in sides}
    dataset = tf.data.Dataset.from_generator(
        lambda: (dict(zip(sides, pair)) for pair in zip(*sides.values())),
        output_signature=signature,
    )
    theirs = list(seqio.EncDecFeatureConverter(pack=True)(dataset, lengths).as_numpy_iterator())
    lengths_NC = np.stack([rows.lengths for rows in ragged.values()], axis=1)
    placement = packing.in_order(lengths_NC, tuple(lengths.values()))
    ours = convert.encoder_decoder(
        convert.Segments(**ragged, placement=placement, packed=True),
        **{f"{name}_length": length for name, length in lengths.items()},
    )
    for name, rows in ours.items():
        np.testing.assert_array_equal(rows, np.stack([row[name] for row in theirs]), err_msg=name)


def test_causal_objective_makes_no_inputs_for_language_models(name, words):
    task = register_text_task(
        name, words, format="jsonl", vocabulary=VOCABULARY, objective="causal_lm"
    )
    row = rows(task, seed=0, lengths={"targets": 100})[0]
    assert set(row) == {"targets"}
    assert row["targets"].size == 100
    assert row["targets"][-1] == 1
    both = rows(task, seed=0, lengths={"inputs": 4, "targets": 100})[0]
    np.testing.assert_array_equal(both["targets"], row["targets"])


def test_lengths_are_required(ul2):
    with pytest.raises(ValueError, match=r"cuts segments to the feature lengths, got \{'targets'"):
        rows(ul2, seed=0, lengths={"targets": 128})


def test_too_few_sentinels_is_an_error_when_the_dataset_is_built(name, words):
    task = register_text_task(
        name, words, format="jsonl", vocabulary=ByteVocabulary(extra_ids=5), objective="ul2"
    )
    with pytest.raises(ValueError, match="sentinels"):
        rows(task, seed=0)


@pytest.mark.parametrize("rate", [0.0, 1.0])
def test_a_denoiser_of_rate_zero_needs_no_room_and_no_sentinels(name, words, rate):
    """X1 takes more sentinels than there are; without it the others come through."""
    config = replace(preset("ul2"), rates=(1, 1, 1, rate, 1, 1, 1))
    vocabulary = ByteVocabulary(extra_ids=20)
    task = register_text_task(name, words, format="jsonl", vocabulary=vocabulary, objective=config)
    if rate:
        with pytest.raises(ValueError, match="'X1' needs 31 sentinels"):
            rows(task, seed=0)
    else:
        assert len(rows(task, seed=0)) > 10


def test_cut_uses_up_the_stream_in_order():
    noise = UL2Noise(preset("causal_lm"), VOCABULARY.info)
    values = np.arange(3, 203, dtype=np.int32)
    most_D = np.array([60])
    inputs, targets = cut_and_corrupt(values, rng.fold_in(0, 0), noise, most_D, min_tokens=8)
    assert targets.lengths.tolist() == [61, 61, 61, 21]
    assert np.concatenate([row[:-1] for row in targets]).tolist() == values.tolist()
    # A remainder below the minimum is dropped, a short text as a whole is not.
    _, targets = cut_and_corrupt(values[:125], rng.fold_in(0, 0), noise, most_D, min_tokens=8)
    assert targets.lengths.tolist() == [61, 61]
    _, targets = cut_and_corrupt(values[:5], rng.fold_in(0, 0), noise, most_D, min_tokens=8)
    assert targets.lengths.tolist() == [6]
    inputs, targets = cut_and_corrupt(values[:0], rng.fold_in(0, 0), noise, most_D, min_tokens=8)
    assert len(inputs) == len(targets) == 0


@pytest.mark.parametrize("name", ["causal_lm", "ul2"])
def test_segments_that_their_denoiser_keeps_short_are_no_remainders(name):
    """Where a denoiser's longest segment is below `min_tokens`, its text comes through."""
    noise = UL2Noise(preset(name), VOCABULARY.info)
    values = np.arange(3, 203, dtype=np.int32)
    most_D = np.full(len(noise.names), 6)
    most_D[1:] += np.arange(len(most_D) - 1)
    denoiser_N = noise.draw(rng.fold_in(rng.fold_in(0, 0), np.arange(100)))
    inputs, targets = cut_and_corrupt(values, rng.fold_in(0, 0), noise, most_D, min_tokens=8)
    rows = zip(inputs, targets, denoiser_N.tolist(), strict=False)
    text = np.concatenate([noise.undo(*row) for row in rows])
    assert 200 - 8 < text.size <= 200
    np.testing.assert_array_equal(text, values[: text.size])


def test_every_setting_matters(words, name):
    task = register_text_task(name, words, format="jsonl", vocabulary=VOCABULARY, objective=None)
    features = {"inputs": task.output_features["targets"], **task.output_features}

    def run(**settings):
        step = UL2Preprocessor(preset("span_corruption"), **settings)
        found = task.source.get_dataset("train", shuffle=False)
        found = task.preprocess_precache(found).map(lambda x: {**x, "copy": x["targets"][:4]})
        with seqio.map_seed_manager(0):
            found = step(found, LENGTHS, {**features, "copy": features["targets"]})
        return [row["targets"].tolist() for row in found.as_numpy_iterator()]

    base = run()
    assert run() == base
    assert run(window=16) != base
    assert run(feature="copy") != base
    assert run(window=7) != run(window=7, min_tokens=60)


def test_online_config_is_plain_json_with_ids(ul2):
    config = preset("ul2").__class__(
        denoisers=preset("ul2").denoisers, mode_tokens={"R": "[NLU]", "S": "[S2S]", "X": (9, 8)}
    )
    online = UL2Preprocessor(config).online_config(ul2.output_features)
    assert online["kind"] == "ul2"
    assert online["feature"] == "targets"
    assert online["config"]["mode_tokens"] == {
        "R": VOCABULARY.encode("[NLU]"),
        "S": VOCABULARY.encode("[S2S]"),
        "X": [9, 8],
    }
