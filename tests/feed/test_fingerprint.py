"""What makes a saved position another feed's, now and after later versions."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from tests.feed import prepared
from ul2tune.data.ul2 import preset
from ul2tune.feed.feed import Feed, FeedConfig
from ul2tune.feed.streams import fingerprint


@dataclass(frozen=True, kw_only=True)
class Younger(FeedConfig):
    """The configuration of a later version, as it might be."""

    order: str = "as before"
    weights: dict[str, float] = field(default_factory=dict)


def config_of(kind: type[FeedConfig] = FeedConfig, **fields: Any) -> FeedConfig:
    values = {"mixture": "mix", "data_dir": "data", "batch_size": 4} | fields
    return kind(feature_lengths={"inputs": 256, "targets": 128}, **values)


def fingerprint_of(config: FeedConfig, noise_of: int = 0) -> int:
    tasks = {"a": {"fingerprint": "12ab", "online": None, "eos": {"targets": "after_trim"}}}
    facts = {"fingerprints": tasks, "rates": (1.0,), "noise_of": np.array([noise_of])}
    sources = SimpleNamespace(config=config, **facts)
    return fingerprint(cast(Any, sources))


def test_positions_saved_by_earlier_versions_are_known():
    """These numbers stand in checkpoints. They may change only where every run may start again."""
    assert fingerprint_of(config_of()) == 4755591943926232161
    changed = config_of(packing="greedy", num_epochs=2, document_separator="eos")
    assert fingerprint_of(changed) == 9022013243587613473
    assert fingerprint_of(changed, noise_of=-1) == 9022013243587613473


def test_positions_in_endless_examples_are_not_those_of_rows_that_dealt_them_out_alone():
    assert fingerprint_of(config_of(), noise_of=-1) not in (4755591943926232161, 0)


def test_a_field_younger_than_the_position_counts_off_its_default():
    found = [
        fingerprint_of(config_of(Younger, **fields))
        for fields in ({}, {"order": "reversed"}, {"weights": {"a": 2.0}})
    ]
    assert found[0] == fingerprint_of(config_of())
    assert len(set(found)) == 3


def test_a_position_goes_on_after_a_field_was_added(tmp_path):
    task = prepared.Task(name="mix", examples=prepared.documents(9), noise=preset("ul2"))
    prepared.write(tmp_path, "mix", [task])
    lengths = {"min_segment_tokens": 48, "max_segment_tokens": 96, "prefetch_batches": 0}
    with Feed(config_of(data_dir=str(tmp_path), **lengths)) as feed:
        next(feed)
        state = feed.get_state()
    younger = config_of(Younger, data_dir=str(tmp_path), **lengths)
    with Feed(younger) as feed:
        feed.set_state(state)
        assert next(feed)["decoder_loss_weights"].any()
    other = replace(cast(Younger, younger), order="reversed")
    with Feed(other) as feed, pytest.raises(ValueError, match="another feed configuration"):
        feed.set_state(state)
