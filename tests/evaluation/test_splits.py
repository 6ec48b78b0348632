"""What the prepared splits of a mixture say."""

from __future__ import annotations

import pytest

from tests.evaluation import prepared
from ul2tune.data.ul2_presets import preset
from ul2tune.evaluation import splits
from ul2tune.instructions.records import Rendered

EOS = 1


def test_the_vocabulary_alone(tmp_path):
    folder = prepared.write(tmp_path)
    found = splits.vocabulary_of("instructions", str(folder))
    assert found.fingerprint == prepared.VOCABULARY.fingerprint
    for path in folder.glob("*/validation/manifest.json"):
        path.unlink()
    with pytest.raises(FileNotFoundError, match="No split of 'instructions' is prepared"):
        splits.vocabulary_of("instructions", str(folder))


def test_prompts_end_as_the_tasks_inputs_do(tmp_path):
    def ended(name, **changes):
        folder = prepared.write(tmp_path / name, **changes)
        return splits.prompts_end_with_eos("instructions", str(folder))

    bare = {"inputs": {"add_eos": False}, "targets": {"add_eos": True}}
    assert ended("asked of the feed")
    assert not ended("decoder-only", features=bare)
    for name, config in (("ul2", preset("ul2")), ("causal", preset("causal_lm"))):
        online = {"kind": "ul2", "feature": "targets", "config": config.to_json()}
        assert ended(name, online=online) == (name == "ul2")
    rows = [(record, Rendered(inputs="p", targets="x")) for record in prepared.records("first")]
    mixed = prepared.write(tmp_path / "mixed", features=bare)
    (mixed / "first" / "validation" / "manifest.json").unlink()
    prepared.write_rows(mixed, "first", "test", rows, end=[EOS], features=bare)
    with pytest.raises(
        ValueError, match=r"'first' ends its inputs .* 'is_long' does not\. Set INF"
    ):
        splits.prompts_end_with_eos("instructions", str(mixed))
