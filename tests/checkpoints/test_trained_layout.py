"""What checkpoints say about the layout they were trained in, and those made of them."""

from __future__ import annotations

import pytest

from tests.checkpoints.test_vocabulary import saved
from ul2tune.checkpoints import description
from ul2tune.checkpoints.trained_layout import carried, recorded
from ul2tune.feed.config import FeedConfig


@pytest.fixture
def step_dirs(tmp_path):
    """One that was imported, one of each layout as runs describe their data."""
    folders = {None: saved(tmp_path / "imported", {"config": {"model": {}}})}
    for layout in ("prefix_lm", "causal_lm"):
        lengths = {"inputs": 8, "targets": 4}
        data = FeedConfig(
            mixture="m", data_dir="d", feature_lengths=lengths, batch_size=8, layout=layout
        )
        folders[layout] = saved(tmp_path / layout, {"config": description.describe({"data": data})})
    return folders


def test_recorded(step_dirs, tmp_path):
    assert [recorded(folder) for folder in step_dirs.values()] == list(step_dirs)
    assert recorded(saved(tmp_path / "bare", {})) is None


def test_carried(step_dirs, tmp_path):
    imported, prefix, causal = step_dirs.values()
    merged = saved(tmp_path / "merged", carried([imported, prefix, prefix]))
    assert recorded(merged) == "prefix_lm"
    assert carried([merged, prefix]) == carried([prefix])
    assert carried([prefix, causal]) == carried([imported]) == {}
