"""Generated instructions through SeqIO and `prepare`: which files, which templates, which sides."""

from __future__ import annotations

import importlib
import json

import pytest
import seqio

from ul2tune.data import vocab
from ul2tune.evaluation import examples
from ul2tune.prepare.run import prepare
from ul2tune.prepare.self_instruct_tasks import register_self_instruct

pytestmark = pytest.mark.tensorflow
VOCABULARY = vocab.ByteVocabulary()
PAIR = {"input": "a", "output": "b"}
TEMPLATES = {
    "with_input": [["{instruction}|{input}|", "{output}"]],
    "without_input": [["{instruction}|", "{output}"]],
}


def write(path, *rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.fixture
def folder(tmp_path):
    seed = {"id": "s", "instruction": "Do.", "instances": [PAIR, PAIR], "is_classification": False}
    write(tmp_path / "seed_tasks.jsonl", seed)
    generated = [{"instruction": f"Make {i}.", **PAIR} for i in range(200)]
    write(tmp_path / "all_instances_82K.jsonl", *generated)
    asked = {"id": "u", "motivation_app": "Mail", "instruction": "Ask.", "instances": [PAIR]}
    write(tmp_path / "user_oriented_instructions.jsonl", asked)
    (tmp_path / "alpaca_data.json").write_text(json.dumps([{"instruction": "Go.", **PAIR}]))
    core = {"instruction": "x", "instances": [{"instruction_with_input": "x y", "output": "z"}]}
    write(tmp_path / "core_data.jsonl", core)
    (tmp_path / "encoding_templates.json").write_text(json.dumps(TEMPLATES))
    return tmp_path


def texts(task: str, split: str) -> list[str]:
    dataset = seqio.get_mixture_or_task(task).get_dataset(None, split, shuffle=False)
    return [one["inputs_pretokenized"].decode() for one in dataset.as_numpy_iterator()]


def test_tasks(folder, name):
    names = register_self_instruct(folder, name=name, vocabulary=VOCABULARY)
    kinds = ("seed", "generated", "user_oriented", "alpaca", "unnatural_core")
    assert names == (name, *(f"{name}_{kind}" for kind in kinds))
    assert texts(f"{name}_seed", "train") == ["Do.|a|"] * 2
    sides = [texts(f"{name}_generated", split) for split in ("train", "validation")]
    assert sorted([*sides[0], *sides[1]]) == sorted(f"Make {i}.|a|" for i in range(200))
    assert 0 < len(sides[1]) < 12
    assert texts(f"{name}_unnatural_core", "train") == ["x y"]
    assert texts(f"{name}_alpaca", "train")[0].endswith("### Input:\na\n\n### Response:")
    mixture = seqio.MixtureRegistry.get(name)
    assert {task.name for task in mixture.tasks} == {f"{name}_seed", f"{name}_generated"}


def test_what_evaluation_reads(folder, name):
    register_self_instruct(folder, name=name, vocabulary=VOCABULARY)
    data_dir = str(folder / "prepared")
    task = f"{name}_user_oriented"
    prepare(task, [], data_dir, splits=("validation",), num_workers=1)
    (one,) = examples.load(task, data_dir, split="validation", inputs_length=64).examples
    assert (one.inputs_text, one.references, one.category) == ("Ask.|a|", ("b",), "Mail")


def test_plain_templates_are_announced(folder, name, capsys):
    (folder / "encoding_templates.json").unlink()
    register_self_instruct(folder, name=name, vocabulary=VOCABULARY)
    assert "one plain template with input" in capsys.readouterr().err
    assert texts(f"{name}_user_oriented", "validation") == ["Ask.\nInput: a\nOutput:"]


def test_wrong_folders(tmp_path, folder, name):
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"empty has none of the files seed_tasks\.jsonl"):
        register_self_instruct(tmp_path / "empty", name=name)
    write(folder / "all_instances_2.jsonl")
    with pytest.raises(ValueError, match=r"several files all_instances\*\.jsonl: all_instances_2"):
        register_self_instruct(folder, name=name)


def test_module(folder, monkeypatch):
    monkeypatch.delenv("UL2TUNE_SELF_INSTRUCT", raising=False)
    with pytest.raises(ValueError, match="set the environment variable UL2TUNE_SELF_INSTRUCT"):
        importlib.import_module("tasks.self_instruct")
    monkeypatch.setenv("UL2TUNE_SELF_INSTRUCT", str(folder))
    monkeypatch.setenv("UL2TUNE_VOCABULARY", "bytes")
    importlib.import_module("tasks.self_instruct")
    assert {"self_instruct_seed", "alpaca", "unnatural_core"} <= set(seqio.TaskRegistry.names())
