"""What a feed finds out about its tasks before the first batch, and makes of odd ones."""

import json
from dataclasses import replace

import numpy as np
import pytest

from tests.feed import prepared
from ul2tune.data import manifest, vocab
from ul2tune.data.ul2 import Denoiser, UL2Config, preset
from ul2tune.feed.feed import Feed, FeedConfig

TEXTS = prepared.documents(20, low=20, high=400)


def config_of(folder, mixture, **fields):
    values = {
        "feature_lengths": {"inputs": 256, "targets": 128},
        "batch_size": 4,
        "window": 6,
        "min_segment_tokens": 48,
        "max_segment_tokens": 96,
        "prefetch_batches": 0,
    }
    return FeedConfig(mixture=mixture, data_dir=str(folder), **values | fields)


def test_examples_without_any_token_are_refused(tmp_path):
    tasks = [prepared.Task(name="void", examples=[{"inputs": [], "targets": []}] * 3)]
    prepared.write(tmp_path, "void", tasks)
    with pytest.raises(ValueError, match=r"Task 'void' has no tokens: all its 3 examples"):
        Feed(config_of(tmp_path, "void"))


@pytest.mark.parametrize(
    ("place", "name"),
    [(["features", "targets"], "tokens"), (["online"], "feature"), (["online"], "config")],
)
def test_what_a_manifest_edited_by_hand_lacks_is_named(place, name, tmp_path):
    tasks = [prepared.Task(name="text", examples=TEXTS, noise=preset("causal_lm"))]
    prepared.write(tmp_path, "text", tasks)
    path = tmp_path / "text" / "train" / "manifest.json"
    data = json.loads(path.read_text())
    part = data
    for key in place:
        part = part[key]
    del part[name]
    path.write_text(json.dumps(data))
    lacking = ".".join([*place, name])
    with pytest.raises(ValueError, match=rf"'text', split 'train', has no {lacking}\. Delete"):
        Feed(config_of(tmp_path, "text"))


def test_no_decoder_segment_is_without_an_encoder_segment(tmp_path):
    """It would attend to all the others: a softmax over nothing allowed is a mean over all."""
    examples = [{"inputs": [], "targets": [8, 9]}, {"inputs": [7], "targets": [6]}]
    prepared.write(tmp_path, "bare", [prepared.Task(name="bare", examples=examples)])
    config = config_of(tmp_path, "bare", batch_size=1, num_epochs=1)
    with Feed(config) as feed:
        segments = [s for batch in feed for s in prepared.unpack(batch, feed.source_names)]
    found = {tuple(s.inputs): tuple(s.targets) for s in segments}
    assert found == {(1,): (8, 9), (7,): (6,)}

    causal = replace(preset("causal_lm"), inputs_eos=False)
    prepared.write(tmp_path, "lm", [prepared.Task(name="lm", examples=TEXTS, noise=causal)])
    with pytest.raises(ValueError, match=r"'causal_lm' of task 'lm' makes inputs without any"):
        Feed(config_of(tmp_path, "lm"))


@pytest.mark.parametrize(
    ("packing", "lengths", "message"),
    [
        ("balanced", {"inputs": 256, "targets": 40}, "too small for denoiser 'wide'"),
        ("none", {"inputs": 900, "targets": 900}, "'wide' needs .* sentinels"),
    ],
)
def test_a_denoiser_of_rate_zero_needs_no_room_and_no_sentinels(
    tmp_path, packing, lengths, message
):
    wide = Denoiser(name="wide", kind="span", mean_span=1.0, rate=0.5)
    narrow = Denoiser(name="narrow", kind="span", mean_span=8.0, rate=0.15)
    for rate, name in ((0.0, "off"), (1.0, "on")):
        noise = UL2Config(denoisers=(wide, narrow), rates=(rate, 1.0))
        prepared.write(tmp_path, name, [prepared.Task(name=name, examples=TEXTS, noise=noise)])
    with Feed(config_of(tmp_path, "off", feature_lengths=lengths, packing=packing)) as feed:
        assert next(feed)["decoder_loss_weights"].any()
    with pytest.raises(ValueError, match=message):
        Feed(config_of(tmp_path, "on", feature_lengths=lengths, packing=packing))


@pytest.mark.parametrize(
    ("packing", "limit"),
    [
        ("balanced", r"FeedConfig\.max_segment_tokens=96 allows\.$"),
        ("none", r"TASK_FEATURE_LENGTHS \{.*256.*\} allow without packing\.$"),
    ],
)
def test_too_few_sentinels_name_the_setting_that_decides_how_long_segments_are(
    tmp_path, packing, limit
):
    many = Denoiser(name="many", kind="span", mean_span=1.0, rate=0.5)
    few = vocab.load({"kind": "pass_through", "base_size": 1000, "extra_ids": 16})
    config = UL2Config(denoisers=(many,))
    task = prepared.Task(name="few", examples=TEXTS, noise=config, vocabulary=few)
    prepared.write(tmp_path, "few", [task])
    with pytest.raises(ValueError, match=rf"Task 'few': .* Segments are as long as {limit}"):
        Feed(config_of(tmp_path, "few", layout="prefix_lm", packing=packing))


@pytest.mark.parametrize(
    ("layout", "lengths"),
    [
        ("causal_lm", {"targets": 256}),
        ("causal_lm", {"inputs": 8, "targets": 248}),
        ("prefix_lm", {"inputs": 8, "targets": 248}),
    ],
)
def test_a_language_model_of_plain_text_gets_targets_alone(tmp_path, layout, lengths):
    """As SeqIO's LM converter does: every position is text or its EOS, and trained on."""
    causal = prepared.Task(name="lm", examples=TEXTS, noise=preset("causal_lm"))
    prepared.write(tmp_path, "lm", [causal])
    with Feed(config_of(tmp_path, "lm", layout=layout, feature_lengths=lengths)) as feed:
        batch = next(feed)
    real = batch["decoder_segment_ids"] > 0
    np.testing.assert_array_equal(batch["decoder_loss_weights"], real)
    assert not np.any(batch["decoder_target_tokens"][real & (batch["decoder_positions"] == 0)] == 1)


@pytest.mark.parametrize("lengths", [{"targets": 256}, {"inputs": 56, "targets": 200}])
def test_text_without_any_end_fills_rows_that_are_not_packed(tmp_path, lengths):
    """Every number of tokens up to the row's length fits: none is the first that does not."""
    bare = replace(preset("causal_lm"), inputs_eos=False, targets_eos=False)
    prepared.write(tmp_path, "bare", [prepared.Task(name="bare", examples=TEXTS, noise=bare)])
    causal = {"layout": "causal_lm", "packing": "none", "document_separator": "eos"}
    with Feed(config_of(tmp_path, "bare", feature_lengths=lengths, **causal)) as feed:
        batch = next(feed)
    assert np.all(batch["decoder_target_tokens"] > 0)
    assert batch["decoder_target_tokens"].shape == (4, 256)


def test_sentinels_of_a_rolled_mask_are_counted_before_the_first_batch(tmp_path):
    """A roll can split one span: some keys need 17 sentinels, most need 16."""
    rolled = Denoiser(name="rolled", kind="span", mean_span=3.0, rate=0.5, placement="roll")
    few = vocab.load({"kind": "pass_through", "base_size": 1000, "extra_ids": 16})
    config = UL2Config(denoisers=(rolled,))
    task = prepared.Task(name="few", examples=TEXTS, noise=config, vocabulary=few)
    prepared.write(tmp_path, "few", [task])
    with pytest.raises(ValueError, match=r"'rolled' needs 17 sentinels for a segment of 96 tokens"):
        Feed(config_of(tmp_path, "few"))


def test_a_position_belongs_to_what_is_done_to_the_data_online(tmp_path):
    """The same shards with another noise, or another end, are other examples."""
    tasks = [
        prepared.Task(name="texts", examples=TEXTS, noise=preset("ul2")),
        prepared.Task(name="pairs", examples=prepared.pairs(9), add_eos=True),
    ]
    prepared.write(tmp_path, "both", tasks)
    config = config_of(tmp_path, "both", feature_lengths={"inputs": 512, "targets": 512})
    with Feed(config) as feed:
        next(feed)
        state = feed.get_state()
    for name in ("texts", "pairs"):
        path = manifest.task_dir(tmp_path, name, "train") / "manifest.json"
        before = manifest.read_task(tmp_path, name, "train")
        if name == "texts":
            noise = {**before.online, "config": replace(preset("ul2"), inputs_eos=False).to_json()}
            manifest.write(replace(before, online=noise), path)
        else:
            facts = {side: {**f, "eos_after_trim": False} for side, f in before.features.items()}
            manifest.write(replace(before, features=facts), path)
        with Feed(config) as feed, pytest.raises(ValueError, match="belongs to other prepared"):
            feed.set_state(state)
        manifest.write(before, path)
    with Feed(config) as feed:
        feed.set_state(state)
        next(feed)


def test_a_split_without_examples_says_what_to_do(tmp_path):
    prepared.write(tmp_path, "t", [prepared.Task(name="t", examples=TEXTS, noise=preset("ul2"))])
    prepared.write(tmp_path, "t", [prepared.Task(name="t", examples=[])], split="validation")
    message = r"split 'validation': hold some out .*of register_chat.* --gin\.EVAL_PERIOD=None"
    with pytest.raises(ValueError, match=message):
        Feed(config_of(tmp_path, "t", split="validation"))
