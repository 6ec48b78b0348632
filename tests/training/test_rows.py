"""Rows that the model cannot read are refused before the data is opened or anything written."""

from __future__ import annotations

from typing import Any

import pytest

from tests.models import decoder_examples, t5gemma_examples
from tests.training import tiny
from ul2tune.feed.config import FeedConfig
from ul2tune.training.rows import check_rows
from ul2tune.training.run import train


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
def test_refused_before_anything_is_written(model: Any, data: FeedConfig, message: str, tmp_path):
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
def test_accepted(model: Any, data: FeedConfig):
    check_rows(model, data)
