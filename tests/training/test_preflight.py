"""What is refused before a run begins."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from tests.feed import prepared
from tests.models import decoder_examples, t5gemma_examples
from tests.training import tiny
from ul2tune.data import manifest
from ul2tune.data.ul2 import Denoiser, UL2Config
from ul2tune.feed.config import FeedConfig
from ul2tune.feed.feed import Feed
from ul2tune.training.preflight import check_ids, check_rows
from ul2tune.training.run import train

SIZE = prepared.VOCABULARY.size


def feed_config(layout: str, inputs: int, targets: int) -> FeedConfig:
    lengths = {"inputs": inputs, "targets": targets}
    return FeedConfig(
        mixture="m", data_dir="d", feature_lengths=lengths, batch_size=8, layout=layout
    )


@pytest.mark.parametrize(
    ("model", "data", "message"),
    [
        (
            decoder_examples.gemma(),
            feed_config("encoder_decoder", 8, 4),
            "layout = 'encoder_decoder' is not for DecoderConfig",
        ),
        (
            decoder_examples.gemma(),
            feed_config("prefix_lm", 40, 25),
            "row of 65 tokens .*max_length = 64",
        ),
        (
            t5gemma_examples.first(),
            feed_config("encoder_decoder", 65, 8),
            "row of 65 tokens for the encoder .*max_length = 64",
        ),
        (
            t5gemma_examples.first(),
            feed_config("encoder_decoder", 8, 65),
            "row of 65 tokens for the decoder .*max_length = 64",
        ),
    ],
)
def test_rows_are_refused_before_anything_is_written(
    model: Any, data: FeedConfig, message: str, tmp_path
):
    values = tiny.arguments(tmp_path, "nowhere") | {"model": model, "data": data}
    with pytest.raises(ValueError, match=message):
        train(**values)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("model", "data"),
    [
        (decoder_examples.gemma(), feed_config("causal_lm", 40, 24)),
        (t5gemma_examples.first(), feed_config("encoder_decoder", 64, 64)),
        (tiny.MODEL, feed_config("encoder_decoder", 4096, 4096)),
    ],
)
def test_rows_are_accepted(model: Any, data: FeedConfig):
    check_rows(model, data)


def check_ids_of(folder, mixture: str, num_rows: int) -> None:
    lengths = {"inputs": 128, "targets": 128}
    config = FeedConfig(
        mixture=mixture,
        data_dir=str(folder),
        feature_lengths=lengths,
        batch_size=2,
        min_segment_tokens=16,
        max_segment_tokens=32,
    )
    with Feed(config) as feed:
        check_ids(dataclasses.replace(tiny.MODEL, vocab_size=num_rows), feed)


def test_ids_of_modes(tmp_path):
    """Rows beyond the vocabulary may be a mode's; a denoiser that is never drawn needs none."""
    noise = UL2Config(
        denoisers=(
            Denoiser(name="r", kind="span", mean_span=3.0, rate=0.15, mode="R"),
            Denoiser(name="s", kind="prefix", rate=0.5, mode="S"),
            Denoiser(name="x", kind="span", mean_span=3.0, rate=0.5, mode="X"),
        ),
        rates=(1.0, 1.0, 0.0),
        mode_tokens={"R": (5,), "S": (7, SIZE + 10), "X": (SIZE + 99,)},
    )
    task = prepared.Task(name="text", examples=prepared.documents(3), noise=noise)
    prepared.write(tmp_path, "mix", [task])
    check_ids_of(tmp_path, "mix", SIZE + 11)
    with pytest.raises(ValueError, match=rf"^Mode 'S' of 'mix' has id {SIZE + 10}, .*{SIZE + 11}"):
        check_ids_of(tmp_path, "mix", SIZE + 10)
    with pytest.raises(ValueError, match=rf"'mix' has {SIZE} ids but the model {SIZE - 1} rows"):
        check_ids_of(tmp_path, "mix", SIZE - 1)


def test_ids_of_modes_of_several_tasks(tmp_path):
    denoiser = Denoiser(name="r", kind="span", mean_span=3.0, rate=0.15, mode="R")
    tasks = [
        prepared.Task(
            name=name,
            examples=prepared.documents(3),
            noise=UL2Config(denoisers=(denoiser,), rates=(1.0,), mode_tokens={"R": (mode,)}),
        )
        for name, mode in (("a", SIZE + 50), ("b", 5))
    ]
    prepared.write(tmp_path, "mix", tasks)
    check_ids_of(tmp_path, "mix", SIZE + 51)
    with pytest.raises(ValueError, match=rf"^Mode 'R' of 'mix' has id {SIZE + 50}, "):
        check_ids_of(tmp_path, "mix", SIZE + 50)


def test_ids_of_prepared_tokens(tmp_path):
    """Older manifests do not tell; what is not fed does not matter."""
    prepared.write(tmp_path, "mix", [prepared.Task(name="pairs", examples=prepared.pairs(3))])
    check_ids_of(tmp_path, "mix", SIZE)
    entry = manifest.read_task(tmp_path, "pairs", "train")
    for feature, num_rows in (("targets", SIZE + 3), ("inputs", SIZE + 3), ("other", SIZE)):
        features = {**entry.features, feature: {"tokens": 9, "add_eos": False, "max_id": SIZE + 2}}
        path = manifest.task_dir(tmp_path, "pairs", "train") / "manifest.json"
        manifest.write(dataclasses.replace(entry, features=features), path)
        check_ids_of(tmp_path, "mix", num_rows)
        if feature != "other":
            message = rf"^Feature '{feature}' of task 'pairs' of 'mix' has id {SIZE + 2}, .* 0 to "
            with pytest.raises(ValueError, match=message):
                check_ids_of(tmp_path, "mix", SIZE + 2)
