"""Where EOS stays and where it is cut off: prepared and fed as SeqIO itself does it."""

from __future__ import annotations

import pytest
import seqio

from ul2tune.feed.config import FeedConfig
from ul2tune.feed.feed import Feed
from ul2tune.prepare.run import prepare

LENGTH = 6
PLACEHOLDER = seqio.CacheDatasetPlaceholder()
append_eos = seqio.preprocessors.append_eos
append_eos_after_trim = seqio.preprocessors.append_eos_after_trim


def both_sides(dataset):
    return dataset.map(lambda line: {"inputs": line, "targets": line})


@pytest.mark.parametrize("inputs_eos", [True, False])
@pytest.mark.parametrize(
    "steps",
    [
        [append_eos],
        [append_eos_after_trim],
        [PLACEHOLDER, append_eos],
        [PLACEHOLDER, append_eos_after_trim],
        [append_eos, PLACEHOLDER],
        [append_eos, PLACEHOLDER, append_eos],
        [append_eos, PLACEHOLDER, append_eos_after_trim],
        [PLACEHOLDER],
    ],
)
def test_as_seqio(name, tmp_path, steps, inputs_eos):
    (tmp_path / "x.txt").write_text("abcd\nabcde\nabcdef\nabcdefg\n")
    byte_vocabulary = seqio.ByteVocabulary()
    task = seqio.TaskRegistry.add(
        name,
        source=seqio.TextLineDataSource({"train": str(tmp_path / "x.txt")}),
        preprocessors=[both_sides, seqio.preprocessors.tokenize, *steps],
        output_features={
            "inputs": seqio.Feature(byte_vocabulary, add_eos=inputs_eos),
            "targets": seqio.Feature(byte_vocabulary, add_eos=True),
        },
    )
    lengths = {"inputs": LENGTH, "targets": LENGTH}
    examples = task.get_dataset(lengths, split="train", shuffle=False).as_numpy_iterator()
    prepare(name, [], str(tmp_path / "data"), ("train",), num_workers=1)
    config = FeedConfig(
        mixture=name,
        data_dir=str(tmp_path / "data"),
        feature_lengths=lengths,
        batch_size=4,
        packing="none",
        shuffle=False,
        num_epochs=1,
    )
    with Feed(config) as feed:
        batch = next(feed)
    names = {"inputs": "encoder_input_tokens", "targets": "decoder_target_tokens"}
    for row, example in enumerate(examples):
        for side, feature in names.items():
            tokens = batch[feature][row]
            assert tokens[tokens > 0].tolist() == example[side].tolist(), (row, side)
