"""Instruction collections through SeqIO and `prepare` to the examples an evaluation reads."""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import seqio

from ul2tune.data import manifest, vocab
from ul2tune.evaluation import examples, splits
from ul2tune.instructions import tk_instruct
from ul2tune.instructions.records import FIELD_NAMES, Demo, Record
from ul2tune.instructions.tk_instruct import TkInstruct
from ul2tune.prepare.record_tasks import register_record_task, tk_instruct_renderer
from ul2tune.prepare.run import prepare
from ul2tune.prepare.superni_tasks import TK_INSTRUCT, register_superni

pytestmark = pytest.mark.tensorflow
VOCABULARY = vocab.ByteVocabulary()


@dataclass(frozen=True)
class Colours:
    """Twelve records to train on and three to evaluate."""

    splits = ("train", "validation")

    def read(self, split: str) -> Iterator[Record]:
        for index in range(12) if split == "train" else range(100, 103):
            yield Record(
                id=f"c{index}",
                task="colours",
                category="Classification",
                instruction="Say the colour",
                input=f"grass {index}",
                targets=("green", "lime é"),
                answer_choices=("green", "red"),
                demos=(Demo(input="sky", target="blue"),),
            )

    def fingerprint(self) -> str:
        return "1"


def register(name: str, **options) -> seqio.Task:
    render = tk_instruct_renderer(tk_instruct.render, encodings=(TkInstruct(),))
    return register_record_task(name, Colours(), render, vocabulary=VOCABULARY, **options)


PROMPT = (
    "Definition: Say the colour.\n\n Positive Example 1 -\nInput: sky.\n Output: blue.\n\n"
    "Now complete the following example -\nInput: grass 100.\nOutput:"
)


def test_prepared_examples_hold_all_that_evaluation_needs(name, tmp_path):
    register(name)
    prepare(name, [], str(tmp_path), num_workers=1)
    found = examples.load(name, str(tmp_path), split="validation", inputs_length=512)
    assert [example.id for example in found.examples] == ["c100", "c101", "c102"]
    one = found.examples[0]
    assert one.inputs_text == PROMPT
    assert one.inputs_S.tolist() == [*VOCABULARY.encode(PROMPT), 1]
    assert one.references == ("green", "lime é")
    assert one.answer_choices == (" green", " red")
    assert one.choice_ids[1].tolist() == [*VOCABULARY.encode(" red"), 1]
    assert one.category == "Classification"
    assert one.demo_ids == ("positive-1",)
    assert one.baselines == {"copy_input": "grass 100", "copy_demo": "blue"}
    assert found.metric_functions[name] == tuple(
        f"ul2tune.metrics.registry.{metric}" for metric in ("exact_match", "token_f1", "rouge_l")
    )
    assert splits.vocabulary_of(name, str(tmp_path)).fingerprint == VOCABULARY.fingerprint


@dataclass(frozen=True)
class HeldOut(Colours):
    """The same records, of which none is trained on."""

    splits = ("validation",)


@pytest.mark.parametrize("order", [("train", "validation"), ("validation", "train")])
def test_tasks_without_training_examples_are_evaluated(name, tmp_path, order):
    """SeqIO evaluates every task of a mixture; rates, which come from training sizes, are for
    training. What was prepared before changes nothing."""
    render = tk_instruct_renderer(tk_instruct.render, encodings=(TkInstruct(),))
    for task, collection in ((f"{name}_a", Colours()), (f"{name}_b", HeldOut())):
        register_record_task(task, collection, render, vocabulary=VOCABULARY)
    rate = seqio.mixing_rate_num_examples
    seqio.MixtureRegistry.add(name, [(f"{name}_a", rate), (f"{name}_b", rate)])
    for split in order:
        prepare(name, [], str(tmp_path), splits=(split,), num_workers=1)
    found = examples.load(name, str(tmp_path), split="validation", inputs_length=512)
    assert [example.name for example in found.examples] == [
        f"{name}_{task}/c{index}" for task in "ab" for index in (100, 101, 102)
    ]
    assert set(found.metric_functions) == {f"{name}_a", f"{name}_b"}
    mixture = manifest.read_mixture(tmp_path, name)
    assert (mixture.tasks, mixture.rates) == ((f"{name}_a",), (1.0,))  # what a run draws from


def test_works_in_plain_seqio(name):
    task = register(name)
    dataset = task.get_dataset({"inputs": 40, "targets": 20}, split="validation", shuffle=False)
    elements = list(dataset.as_numpy_iterator())
    assert len(elements) == 3
    assert set(FIELD_NAMES) - {"inputs_text"} <= set(elements[0])
    assert elements[0]["inputs"].tolist() == [*VOCABULARY.encode(PROMPT)[:39], 1]
    targets = [VOCABULARY.decode(element["targets"]) for element in elements]
    assert set(targets) <= {" green", " lime é"}
    references = task.postprocess_fn("", example=elements[0], is_target=True)
    assert list(references) == ["green", "lime é"]
    assert task.postprocess_fn(" lime é ", example=elements[0], is_target=False) == "lime é"
    (exact_match, *_) = task.metric_fns
    assert exact_match([references] * 2, ["green", "red"]) == {"exact_match": 50.0}


def test_the_seed_and_the_records_decide_the_fingerprint(name):
    one = register(name).source.fingerprint()
    assert register(f"{name}_again").source.fingerprint() == one
    assert register(f"{name}_seed", seed=1).source.fingerprint() != one


def write_superni(folder: Path, **files) -> Path:
    content = {
        "Definition": ["Answer."],
        "Categories": ["Word Analogy"],
        "Positive Examples": [],
        "Negative Examples": [],
        "Instances": [{"id": f"{i}", "input": f"q{i}", "output": [f"a{i % 2}"]} for i in range(9)],
    }
    (folder / "tasks").mkdir()
    (folder / "splits" / "default").mkdir(parents=True)
    for name in ("task1_a-b", "task2_c"):
        text = files.get(name[:5], json.dumps(content))
        (folder / "tasks" / f"{name}.json").write_text(text)
    (folder / "splits" / "default" / "train_tasks.txt").write_text("task1_a-b\ntask9_absent\n")
    (folder / "splits" / "default" / "test_tasks.txt").write_text("task2_c\n")
    return folder


def test_superni_registers_a_copy_of_the_repository(name, tmp_path, capsys):
    folder = write_superni(tmp_path)
    mixtures = register_superni(folder, name=name, vocabulary=VOCABULARY, train_limit=4)
    assert mixtures == (name, f"{name}_eval")
    assert "1 of 2 tasks of" in capsys.readouterr().err
    train = seqio.get_mixture_or_task(name)
    assert [task.name for task in train.tasks] == [f"{name}_task1_a_b"]
    data_dir = str(tmp_path / "data")
    prepare(f"{name}_eval", [], data_dir, num_workers=1)
    prepare(name, [], data_dir, splits=("train",), num_workers=1)
    held_out = examples.load(f"{name}_eval", data_dir, split="validation", inputs_length=99)
    assert [example.id for example in held_out.examples] == [str(i) for i in range(9)]
    assert held_out.examples[0].answer_choices == (" a0", " a1")
    trained = examples.load(name, data_dir, split="train", inputs_length=99)
    assert len(trained.examples) == 4


def test_superni_in_tk_instruct_mode_and_across_languages(name, tmp_path):
    folder = write_superni(tmp_path)
    (folder / "splits" / "default").rename(folder / "splits" / "xlingual")
    options = {"name": name, "vocabulary": VOCABULARY, "encodings": TK_INSTRUCT}
    register_superni(folder, track="xlingual", **options)
    data_dir = str(tmp_path / "data")
    prepare(name, [], data_dir, splits=("train",), num_workers=1)
    prepare(f"{name}_eval", [], data_dir, num_workers=1)
    trained = examples.load(name, data_dir, split="train", inputs_length=99).examples
    tested = examples.load(f"{name}_eval", data_dir, split="validation", inputs_length=99).examples
    with_definition = [example.inputs_text.startswith("Definition") for example in trained]
    assert 0 < sum(with_definition) < len(trained)
    assert all(example.inputs_text.startswith("Definition") for example in tested)
    assert tested[0].metric_names == ("exact_match", "token_f1", "rouge_l_gpt2")


def test_a_malformed_file_stops_prepare_with_its_name(name, tmp_path):
    register_superni(
        write_superni(tmp_path, task1='{"Definition": "x"}'), name=name, vocabulary=VOCABULARY
    )
    with pytest.raises(ValueError, match=r"task1_a-b\.json: 'Instances' is missing"):
        prepare(name, [], str(tmp_path / "data"), splits=("train",), num_workers=1)


def test_superni_folder_errors(name, tmp_path):
    with pytest.raises(ValueError, match=r"does not exist\. Give the folder that has tasks/"):
        register_superni(tmp_path, name=name)
    folder = write_superni(tmp_path)
    for path in (folder / "tasks").iterdir():
        path.unlink()
    with pytest.raises(ValueError, match="has none of the 2 tasks"):
        register_superni(folder, name=name)


def register_module(module: str) -> None:
    """Imports a module for its registrations, even if some test did before."""
    sys.modules.pop(module, None)
    importlib.import_module(module)


def test_the_superni_module_asks_for_the_folder(monkeypatch):
    monkeypatch.delenv("UL2TUNE_SUPERNI", raising=False)
    with pytest.raises(ValueError, match=r"need your copy.*UL2TUNE_SUPERNI to the folder"):
        register_module("tasks.superni")


def test_the_superni_module_registers_both_mixtures(monkeypatch, tmp_path):
    monkeypatch.setenv("UL2TUNE_SUPERNI", str(write_superni(tmp_path)))
    register_module("tasks.superni")
    assert {"superni", "superni_eval"} <= set(seqio.MixtureRegistry.names())


def test_the_embedded_set_is_registered():
    register_module("tasks.stdlib_instructions")
    mixtures = [
        seqio.get_mixture_or_task(f"stdlib_instructions{suffix}")
        for suffix in ("", "_supervised_eval", "_heldout_eval")
    ]
    trained, supervised, held_out = ({task.name for task in m.tasks} for m in mixtures)
    assert trained == supervised
    assert not trained & held_out
    element = next(iter(next(iter(mixtures[2].tasks)).source.read("validation")))
    assert element["inputs"].endswith("\nOutput:")
    assert element["targets"].startswith(" ")
