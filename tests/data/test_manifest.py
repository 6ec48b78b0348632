"""Manifests as files."""

import pytest

from ul2tune.data import manifest
from ul2tune.data.manifest import MixtureManifest, Shard, TaskManifest

TASK = TaskManifest(
    task="t",
    split="train",
    shards=(Shard(file="a", num_examples=2, num_bytes=3, sha256="0", tokens={"targets": 4}),),
    num_examples=2,
    features={"targets": {"add_eos": True, "max_tokens": 3, "tokens": 4}},
    vocabulary={"kind": "bytes"},
    fingerprint="f",
    online={"kind": "ul2"},
    metrics=("m.exact",),
    rejected={"empty": 1},
    rejected_examples=("ä.txt:3: empty",),
)


def test_round_trip_through_files(tmp_path):
    path = manifest.task_dir(tmp_path, "t", "train") / "manifest.json"
    manifest.write(TASK, path)
    assert manifest.read_task(tmp_path, "t", "train") == TASK
    mixture = MixtureManifest(name="m", tasks=("t",), rates=(1.0,), modules=("tasks.ul2",))
    manifest.write(mixture, manifest.mixture_path(tmp_path, "m"))
    assert manifest.read_mixture(tmp_path, "m") == mixture
    # Nothing temporary stays behind.
    assert {p.name for p in tmp_path.rglob("*") if p.is_file()} == {
        "manifest.json",
        "m.mixture.json",
    }


def test_missing_says_what_to_do(tmp_path):
    with pytest.raises(FileNotFoundError, match="Run `ul2tune prepare`"):
        manifest.read_task(tmp_path, "t", "train")


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"format_version": 99}', '{"format_version": 1, "task": "t"}']
)
def test_damaged_or_foreign_manifests(tmp_path, text):
    folder = manifest.task_dir(tmp_path, "t", "train")
    folder.mkdir(parents=True)
    (folder / "manifest.json").write_text(text)
    with pytest.raises(ValueError, match="not a readable manifest"):
        manifest.read_task(tmp_path, "t", "train")
