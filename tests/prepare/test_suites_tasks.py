"""The evaluation suites through SeqIO and `prepare` to the examples an evaluation reads."""

from __future__ import annotations

import importlib
import json

import pytest
import seqio

from ul2tune.data import vocab
from ul2tune.evaluation import examples
from ul2tune.prepare import environment, suites_tasks
from ul2tune.prepare.run import prepare

pytestmark = pytest.mark.tensorflow
VOCABULARY = vocab.ByteVocabulary()


def read(mixture: str, folder, split: str = "validation"):
    data_dir = str(folder / "prepared")
    prepare(mixture, [], data_dir, splits=(split,), num_workers=1)
    return examples.load(mixture, data_dir, split=split, inputs_length=2048).examples


def test_mmlu(name, tmp_path):
    for kind, text in (("dev", "q?,1,2,3,4,B\n"), ("test", "r?,a,b,c,d,C\ns?,a,b,c,d,A\n")):
        (tmp_path / kind).mkdir()
        (tmp_path / kind / f"anatomy_{kind}.csv").write_text(text)
    mixtures = suites_tasks.register_mmlu(tmp_path, name=name, vocabulary=VOCABULARY)
    assert mixtures == (name, f"{name}_text")
    first, second = read(name, tmp_path)
    assert first.inputs_text.endswith("Answer: B\n\nr?\nA. a\nB. b\nC. c\nD. d\nAnswer:")
    assert first.answer_choices == (" A", " B", " C", " D")
    # In bytes the first token is the space that all have; the letter comes after it.
    assert first.first_difference == 1
    assert (first.category, first.cluster) == ("health", "other (business, health, misc.)")
    assert first.metric_names == ("rank_accuracy_first_token", "mmlu")
    assert (first.references, second.references) == (("C",), ("A",))
    assert first.demo_ids == ("dev-0",)
    assert read(f"{name}_text", tmp_path)[0].references == ("c",)


def test_bbh(name, tmp_path):
    (tmp_path / "bbh").mkdir()
    (tmp_path / "cot-prompts").mkdir()
    rows = [{"input": "3+3", "target": "6"}]
    (tmp_path / "bbh/sums.json").write_text(json.dumps({"examples": rows}))
    prompt = "x\n-----\nAdd.\n\nQ: 1+1\nA: Let's think step by step.\nSo the answer is 2."
    (tmp_path / "cot-prompts/sums.txt").write_text(prompt)
    chain, direct = suites_tasks.register_bbh(tmp_path, name=name, vocabulary=VOCABULARY)
    (one,) = read(chain, tmp_path)
    assert one.inputs_text.endswith("\n\nQ: 3+3\nA: Let's think step by step.")
    (one,) = read(direct, tmp_path)
    assert one.inputs_text == "Add.\n\nQ: 1+1\nA: 2\n\nQ: 3+3\nA:"
    assert (one.references, one.metric_names, one.demo_ids) == (("6",), ("bbh",), ("cot-1",))


def test_gsm8k(name, tmp_path):
    rows = [{"question": f"{n}+1?", "answer": f"It is {n + 1}\n#### {n + 1}"} for n in range(4)]
    for file, part in (("train", rows), ("test", rows[:1])):
        text = "".join(json.dumps(row) + "\n" for row in part)
        (tmp_path / f"{file}.jsonl").write_text(text)
    names = suites_tasks.register_gsm8k(tmp_path, name=name, vocabulary=VOCABULARY, shots=2)
    assert names == (name, f"{name}_cot")
    assert seqio.get_mixture_or_task(names[1]).splits == ("validation",)
    trained = read(name, tmp_path, "train")
    assert [example.id for example in trained] == [f"train-{n}" for n in range(1, 5)]
    (one,) = read(names[1], tmp_path)
    assert one.inputs_text.endswith("\n\nQ: 0+1?\nA:")
    assert one.inputs_text.count("Q: ") == 3
    assert "train-1" not in one.demo_ids  # the same question
    assert one.metric_names == ("gsm8k",)


@pytest.mark.parametrize("module", ["mmlu", "bbh", "gsm8k"])
def test_the_modules_say_which_folder_they_need(module, monkeypatch):
    monkeypatch.delenv(f"UL2TUNE_{module.upper()}", raising=False)
    with pytest.raises(ValueError, match=f"environment variable UL2TUNE_{module.upper()} to"):
        importlib.import_module(f"tasks.{module}")


@pytest.mark.parametrize("text", ["x", "nan", "inf", "1e999"])
def test_a_variable_that_is_no_number(text, monkeypatch):
    monkeypatch.setenv("UL2TUNE_SHARE", text)
    with pytest.raises(ValueError, match=f"UL2TUNE_SHARE is '{text}': give a number"):
        environment.number("UL2TUNE_SHARE", 0.5)
    monkeypatch.setenv("UL2TUNE_SHARE", "")
    assert environment.number("UL2TUNE_SHARE", 0.5) == 0.5
