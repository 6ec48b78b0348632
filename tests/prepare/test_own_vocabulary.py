"""tasks/own_vocabulary.py: UL2R and instructions in the vocabulary that the environment names."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path

import pytest
import seqio

from ul2tune.data import manifest
from ul2tune.feed.config import FeedConfig
from ul2tune.feed.feed import Feed
from ul2tune.prepare.plan import find_tasks, make_plan
from ul2tune.prepare.run import prepare

MODULE = "tasks.own_vocabulary"


@pytest.fixture
def own(monkeypatch, tmp_path: Path):
    for name in [n for n in seqio.TaskRegistry.names() if n.endswith("_own")]:
        seqio.TaskRegistry.remove(name)
    if "instructions_own" in seqio.MixtureRegistry.names():
        seqio.MixtureRegistry.remove("instructions_own")
    lines = [json.dumps({"text": f"Line {n} of a text. " * 20}) for n in range(100)]
    (tmp_path / "text.jsonl").write_text("\n".join(lines))
    monkeypatch.setenv("UL2TUNE_VOCABULARY", "bytes")
    monkeypatch.setenv("UL2TUNE_TEXT", str(tmp_path / "text.jsonl"))
    monkeypatch.delitem(sys.modules, MODULE, raising=False)
    importlib.import_module(MODULE)
    yield tmp_path
    sys.modules.pop(MODULE)


def test_text_is_prepared_in_it(own: Path):
    """ByT5's 125 sentinels are enough for UL2R's segments of at most 512 bytes."""
    prepare("ul2r_own", [MODULE], str(own / "data"), splits=["train"], num_workers=1)
    made = manifest.read_task(str(own / "data"), "ul2r_own", "train")
    assert made.vocabulary["kind"] == "bytes"
    assert made.num_examples > 90
    lengths = {"inputs": 1024, "targets": 768}
    data = FeedConfig(
        mixture="ul2r_own", data_dir=str(own / "data"), feature_lengths=lengths, batch_size=4
    )
    with Feed(data) as feed:
        batch = next(feed)
    assert batch["encoder_input_tokens"].max() < 387


def test_instructions_are_those_of_the_embedded_set(own: Path):
    tasks = find_tasks("instructions_own")
    assert len(tasks) == 14
    assert {make_plan(task, "train").vocabulary.kind for task in tasks} == {"bytes"}
