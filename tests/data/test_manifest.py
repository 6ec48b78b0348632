"""Manifests as files."""

import dataclasses
import json

import pytest

from ul2tune.data import manifest
from ul2tune.data.manifest import MixtureManifest, Shard, TaskManifest
from ul2tune.data.seqio_metrics import SeqioMetrics
from ul2tune.named_function import NamedFunction

TASK = TaskManifest(
    task="t",
    split="train",
    shards=(Shard(file="a", num_examples=2, num_bytes=3, sha256="0", tokens={"targets": 4}),),
    num_examples=2,
    features={"targets": {"add_eos": True, "max_tokens": 3, "tokens": 4}},
    vocabulary={"kind": "bytes", "fingerprint": "v"},
    fingerprint="f",
    online={"kind": "ul2"},
    metrics=("m.exact",),
    rejected={"empty": 1},
    rejected_examples=("ä.txt:3: empty",),
)
TREE = {"name": "c", "rate": 1.0, "weight": 1.0, "examples": 0, "children": ()}


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


def test_functions_of_seqio_go_through_files(tmp_path):
    names = [NamedFunction(name=f"m:{n}", args=(n,), kwargs={"labels": ["a"]}) for n in range(3)]
    metrics = SeqioMetrics(postprocess=names[0], of_predictions=(names[1],), of_scores=(names[2],))
    path = manifest.task_dir(tmp_path, "t", "train") / "manifest.json"
    for one in (metrics, dataclasses.replace(metrics, postprocess=None)):
        written = dataclasses.replace(TASK, metrics=(), seqio_metrics=one)
        manifest.write(written, path)
        assert manifest.read_task(tmp_path, "t", "train") == written
        assert written.metric_names == ("m:1", "m:2")
    # Other tasks' manifests have no trace of it.
    manifest.write(TASK, path)
    assert "seqio" not in path.read_text()


@pytest.mark.parametrize(
    "damage",
    [
        {"postprocess": None},
        {"postprocess": "m:f", "of_predictions": [], "of_scores": []},
        {"postprocess": None, "of_predictions": ["m:f"], "of_scores": []},
        [],
    ],
)
def test_damaged_functions_of_seqio(tmp_path, damage):
    path = manifest.task_dir(tmp_path, "t", "train") / "manifest.json"
    manifest.write(TASK, path)
    path.write_text(json.dumps({**json.loads(path.read_text()), "seqio_metrics": damage}))
    with pytest.raises(ValueError, match=r"not a readable manifest .*Delete its folder"):
        manifest.read_task(tmp_path, "t", "train")


def test_missing_says_what_to_do(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"Run `ul2tune prepare`.* or set DATA_DIR"):
        manifest.read_task(tmp_path, "t", "train")
    with pytest.raises(FileNotFoundError, match=r"set DATA_DIR to where it was prepared\.$"):
        manifest.read_mixture(tmp_path, "m")
    for name in ("b", "a"):
        mixture = MixtureManifest(name=name, tasks=("t",), rates=(1.0,))
        manifest.write(mixture, manifest.mixture_path(tmp_path, name))
    with pytest.raises(FileNotFoundError, match=rf"{tmp_path} holds a, b\.$"):
        manifest.read_mixture(tmp_path, "m")


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"format_version": 99}', '{"format_version": 1, "task": "t"}']
)
def test_damaged_or_foreign_manifests(tmp_path, text):
    folder = manifest.task_dir(tmp_path, "t", "train")
    folder.mkdir(parents=True)
    (folder / "manifest.json").write_text(text)
    with pytest.raises(ValueError, match="not a readable manifest"):
        manifest.read_task(tmp_path, "t", "train")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"task": "../t"}, r"'../t' is not a bare name"),
        ({"split": ".."}, r"'\.\.' is not a bare name"),
        ({"shards": ({"file": "../../a"},)}, r"'../../a' is not a bare name"),
        ({"shards": ({"file": "/etc/a"},)}, r"'/etc/a' is not a bare name"),
        ({"shards": ({"file": 3},)}, r"3 is not a bare name"),
        ({"num_examples": 3}, r"shards of \[2\] examples, 3 in all"),
        ({"shards": ({"num_examples": -2},), "num_examples": -2}, r"shards of \[-2\]"),
        ({"vocabulary": {"file": "/etc/a"}}, r"'/etc/a' is not in the data folder"),
        ({"vocabulary": {"file": "a/../../b"}}, r"'a/../../b' is not in the data folder"),
        ({"vocabulary": {"file": "~/b"}}, r"'~/b' is not in the data folder"),
        ({"vocabulary": {"file": "gs://b/c"}}, r"'gs://b/c' is not in the data folder"),
        ({"vocabulary": {"base": {"file": "../b"}}}, r"'../b' is not in the data folder"),
    ],
)
def test_a_tasks_manifest_stays_in_its_folder(tmp_path, change, message):
    data = dataclasses.asdict(TASK)
    shards = [{**data["shards"][0], **shard} for shard in change.get("shards", ({},))]
    path = manifest.task_dir(tmp_path, "t", "train") / "manifest.json"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps({**data, **change, "shards": shards}))
    with pytest.raises(ValueError, match=message):
        manifest.read_task(tmp_path, "t", "train")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"vocabulary": None}, r"vocabulary is None, expected an object"),
        ({"vocabulary": {"kind": "bytes"}}, r"vocabulary.fingerprint is None, expected a text"),
        ({"vocabulary": {"kind": []}}, r"vocabulary.kind is \[\], expected a text"),
        ({"vocabulary": {"kind": "extended", "base": 3}}, r"vocabulary is 3, expected an object"),
        ({"vocabulary": {"kind": "a", "file": 5}}, r"vocabulary.file is 5, expected a text"),
        ({"vocabulary": {"file": ["x"]}}, r"vocabulary.file is \['x'\], expected a text"),
        ({"vocabulary": {"sha256": 5}}, r"vocabulary.sha256 is 5, expected a text"),
        ({"vocabulary": {"modes": 5}}, r"vocabulary.modes is 5, expected a list of texts"),
        ({"vocabulary": {"modes": ["R", 5]}}, r"vocabulary.modes is \['R', 5\], expected a list"),
        ({"vocabulary": {"added": "ab"}}, r"vocabulary.added is 'ab', expected a list of texts"),
        ({"vocabulary": {"base_size": "x"}}, r"vocabulary.base_size is 'x', expected an integer"),
        ({"vocabulary": {"extra_ids": True}}, r"vocabulary.extra_ids is True, expected an integer"),
        ({"vocabulary": {"base": {"extra_ids": 1.5}}}, r"vocabulary.extra_ids is 1.5, expected"),
        ({"features": []}, r"features is \[\], expected an object"),
        ({"features": {"inputs": 1}}, r"features.inputs is 1, expected an object"),
        ({"features": {"a": {"tokens": True}}}, r"features.a.tokens is True, expected an integer"),
        ({"features": {"a": {"tokens": 1, "max_id": "x"}}}, r"features.a.max_id is 'x'"),
        ({"features": {"a": {"add_eos": 1}}}, r"features.a.add_eos is 1, expected true or false"),
        ({"features": {"a": {"eos_after_trim": "no"}}}, r"features.a.eos_after_trim is 'no'"),
        ({"metrics": "m.exact"}, r"metrics is 'm.exact', expected a list of texts"),
        ({"metrics": ["m.exact", 5]}, r"metrics is \['m.exact', 5\], expected a list of texts"),
        ({"rejected_examples": "a"}, r"rejected_examples is 'a', expected a list of texts"),
        ({"online": [1]}, r"online is \[1\], expected an object"),
        ({"online": {}}, r"online.kind is None, expected a text"),
        ({"online": {"kind": "ul2", "feature": 3}}, r"online.feature is 3, expected a text"),
        ({"online": {"kind": "ul2", "config": ""}}, r"online.config is '', expected an object"),
    ],
)
def test_a_manifest_edited_by_hand_is_one_sentence(tmp_path, change, message):
    path = manifest.task_dir(tmp_path, "t", "train") / "manifest.json"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps({**dataclasses.asdict(TASK), **change}))
    with pytest.raises(ValueError, match=rf"not a readable manifest \({message}"):
        manifest.read_task(tmp_path, "t", "train")


def test_an_online_transform_of_another_version_is_read(tmp_path):
    """The feed names it; nothing is known of what it holds."""
    task = dataclasses.replace(TASK, online={"kind": "chunks"})
    manifest.write(task, manifest.task_dir(tmp_path, "t", "train") / "manifest.json")
    assert manifest.read_task(tmp_path, "t", "train") == task


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"tasks": ("a", "../b")}, r"'../b' is not a bare name"),
        ({"tasks": "ab"}, r"tasks is 'ab', expected a list of texts"),
        ({"modules": "tasks.ul2"}, r"modules is 'tasks.ul2', expected a list of texts"),
        ({"rates": (1.0,)}, r"rates \(1.0,\) of 2 tasks"),
        ({"rates": (1.0, -1.0)}, r"rates \(1.0, -1.0\) of 2 tasks"),
        ({"rates": (1.0, float("nan"))}, r"rates \(1.0, nan\)"),
        ({"rates": (1.0, float("inf"))}, r"rates \(1.0, inf\)"),
        ({"rates": (1.0, "x")}, r"not a readable manifest"),
        ({"tree": TREE | {"name": "../c"}}, r"'../c' is not a bare name"),
        ({"tree": {"children": ()}}, r"not a readable manifest"),
    ],
)
def test_a_mixtures_manifest_is_one(tmp_path, change, message):
    data = dataclasses.asdict(MixtureManifest(name="m", tasks=("a", "b"), rates=(1.0, 0.0)))
    manifest.mixture_path(tmp_path, "m").write_text(json.dumps({**data, **change}))
    with pytest.raises(ValueError, match=message):
        manifest.read_mixture(tmp_path, "m")
