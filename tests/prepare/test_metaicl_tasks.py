"""MetaICL's files as SeqIO tasks: roles, demos, no end of sequence, clear errors."""

import json
import re

import pytest
import seqio

from ul2tune.instructions.metaicl import MetaICL
from ul2tune.prepare.metaicl_tasks import register_metaicl, register_metaicl_seeds


@pytest.fixture
def folder(tmp_path):
    for task in ("glue-sst2", "qa", "other"):
        (tmp_path / task).mkdir()
        for k, seed, split in ((40, 100, "train"), (4, 13, "train"), (4, 13, "test")):
            lines = [
                {"task": task, "input": f"{task} {split} {i}", "output": "ab"[i % 2]}
                for i in range(k)
            ]
            path = tmp_path / task / f"{task}_{k}_{seed}_{split}.jsonl"
            path.write_text("\n".join(map(json.dumps, lines)))
    return tmp_path


def test_setting(folder, name):
    setting = folder / "setting.json"
    setting.write_text('{"train": ["glue-sst2", "qa"], "test": ["other"]}')
    config = MetaICL(demos=4)
    mixtures = register_metaicl(
        folder, name=name, setting=setting, config=config, seed=13, vocabulary="bytes"
    )
    assert mixtures == (name, f"{name}_eval")
    train, evaluation = map(seqio.get_mixture_or_task, mixtures)
    assert [task.name for task in train.tasks] == [f"{name}_glue_sst2", f"{name}_qa"]
    (asked,) = evaluation.tasks
    assert tuple(asked.splits) == ("validation",)
    element = next(iter(asked.get_dataset(None, "validation", shuffle=False).as_numpy_iterator()))
    assert element["inputs_pretokenized"].decode() == (
        "other train 0\na\n\n\nother train 1\nb\n\n\nother train 2\na\n\n\n"
        "other train 3\nb\n\n\nother test 0\n"
    )
    assert element["targets"].tolist() == [ord("a") + 3]
    assert sum(1 for _ in train.tasks[0].get_dataset(None, "train")) == 40


def test_without_a_setting_every_task_trains_and_tests(folder, name):
    mixtures = register_metaicl(
        folder, name=name, config=MetaICL(demos=4), seed=13, vocabulary="bytes"
    )
    assert [len(seqio.get_mixture_or_task(m).tasks) for m in mixtures] == [3, 3]
    assert register_metaicl(folder, name=f"{name}b", vocabulary="bytes") == (f"{name}b", "")


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ('{"train": ["qa"]}', "'test' must be a list"),
        ('{"train": ["qa"], "test": ["qa"]}', "'qa' is both a training and a test task"),
        ('{"train": ["nobody"], "test": []}', "nobody has no train file"),
    ],
)
def test_wrong_settings(folder, name, setting, message):
    path = folder / "setting.json"
    path.write_text(setting)
    with pytest.raises(ValueError, match=message):
        register_metaicl(folder, name=name, setting=path, vocabulary="bytes")


def test_a_folder_of_something_else(tmp_path, name):
    with pytest.raises(ValueError, match="has no files <task>"):
        register_metaicl(tmp_path, name=name)


def test_seeds(folder, name):
    for task in ("qa", "other"):
        for split in ("train", "test"):
            path = folder / task / f"{task}_4_13_{split}.jsonl"
            (folder / task / f"{task}_4_21_{split}.jsonl").write_text(path.read_text())
    options = {"config": MetaICL(demos=4), "vocabulary": "bytes"}
    assert register_metaicl_seeds(folder, name=name, seeds=(13, 21), **options) == name
    tasks = {task.name: task for task in seqio.get_mixture_or_task(name).tasks}
    assert list(tasks) == [
        f"{name}_{seed}_{task}"
        for seed, names in ((13, ("glue-sst2", "other", "qa")), (21, ("other", "qa")))
        for task in (re.sub("-", "_", n) for n in names)
    ]
    element = next(
        iter(
            tasks[f"{name}_21_qa"]
            .get_dataset(None, "validation", shuffle=False)
            .as_numpy_iterator()
        )
    )
    assert element["render_seed"] == b"21"
    assert register_metaicl_seeds(folder, name=f"{name}_none", seeds=(42,), **options) == ""
    setting = folder / "setting.json"
    setting.write_text('{"train": ["qa"], "test": ["glue-sst2"]}')
    with pytest.raises(ValueError, match="glue-sst2 has no test file for k=4, seed=21"):
        register_metaicl_seeds(
            folder, name=f"{name}_strict", setting=setting, seeds=(21,), **options
        )
