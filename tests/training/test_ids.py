"""Ids that no row of the model's embedding belongs to."""

from __future__ import annotations

import dataclasses

import pytest

from tests.feed import prepared
from tests.training import tiny
from ul2tune.data import manifest
from ul2tune.data.ul2 import Denoiser, UL2Config
from ul2tune.feed.config import FeedConfig
from ul2tune.feed.feed import Feed
from ul2tune.training.ids import check_ids

SIZE = prepared.VOCABULARY.size


def check(folder, mixture: str, num_rows: int) -> None:
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


def test_modes(tmp_path):
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
    check(tmp_path, "mix", SIZE + 11)
    with pytest.raises(ValueError, match=rf"^Mode 'S' of 'mix' has id {SIZE + 10}, .*{SIZE + 11}"):
        check(tmp_path, "mix", SIZE + 10)
    with pytest.raises(ValueError, match=rf"'mix' has {SIZE} ids but the model {SIZE - 1} rows"):
        check(tmp_path, "mix", SIZE - 1)


def test_modes_of_several_tasks(tmp_path):
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
    check(tmp_path, "mix", SIZE + 51)
    with pytest.raises(ValueError, match=rf"^Mode 'R' of 'mix' has id {SIZE + 50}, "):
        check(tmp_path, "mix", SIZE + 50)


def test_prepared_tokens(tmp_path):
    """Older manifests do not tell; what is not fed does not matter."""
    prepared.write(tmp_path, "mix", [prepared.Task(name="pairs", examples=prepared.pairs(3))])
    check(tmp_path, "mix", SIZE)
    entry = manifest.read_task(tmp_path, "pairs", "train")
    for feature, num_rows in (("targets", SIZE + 3), ("inputs", SIZE + 3), ("other", SIZE)):
        features = {**entry.features, feature: {"tokens": 9, "add_eos": False, "max_id": SIZE + 2}}
        path = manifest.task_dir(tmp_path, "pairs", "train") / "manifest.json"
        manifest.write(dataclasses.replace(entry, features=features), path)
        check(tmp_path, "mix", num_rows)
        if feature != "other":
            message = rf"^Feature '{feature}' of task 'pairs' of 'mix' has id {SIZE + 2}, .* 0 to "
            with pytest.raises(ValueError, match=message):
                check(tmp_path, "mix", SIZE + 2)
