"""The embedded instruction set: what its files promise."""

from __future__ import annotations

import json

import pytest

from ul2tune.instructions import stdlib_instructions, superni, superni_file, tk_instruct
from ul2tune.instructions.stdlib_instructions import EVAL_INSTANCES, Function, Material, Sentence
from ul2tune.metrics import registry

NAMES = tuple(stdlib_instructions.task_types())


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return stdlib_instructions.write_tasks(tmp_path_factory.mktemp("stdlib_instructions"))


def load(folder, name: str) -> superni_file.Task:
    return superni_file.load_task(folder / "tasks" / f"stdlib_{name}.json")


def test_types_are_many_and_some_are_held_out(folder):
    trained = superni.read_split(folder / "splits" / "default" / "train_tasks.txt")
    held_out = superni.read_split(folder / "splits" / "default" / "test_tasks.txt")
    assert trained == stdlib_instructions.task_names(held_out=False)
    assert len(trained) >= 12
    assert len(held_out) >= 3
    assert not set(trained) & set(held_out)
    kinds = {load(folder, name).category.split()[-1] for name in NAMES}
    assert kinds >= {"Classification", "Extraction", "Generation"}


@pytest.mark.parametrize("name", NAMES)
def test_a_task_is_sound(folder, name):
    task = load(folder, name)
    assert len(task.definitions) >= 3
    assert len(task.instances) >= EVAL_INSTANCES + 200
    inputs = [instance.input for instance in task.instances]
    assert len(set(inputs)) == len(inputs)
    positive = [demo for demo in task.demos if not demo.negative]
    (negative,) = (demo for demo in task.demos if demo.negative)
    assert len(positive) == 3
    assert not {demo.input for demo in task.demos} & set(inputs)
    assert negative.explanation == f"It should be: {dict(pairs(name))[negative.input]}"
    assert negative.target not in negative.explanation.removeprefix("It should be: ").split()
    for encoding in (tk_instruct.TkInstruct(positive=0), tk_instruct.TkInstruct(positive=1)):
        rendered = tk_instruct.render(next(superni.records(task)), 0, encodings=(encoding,))
        assert len(rendered.inputs.split()) < 90


@pytest.mark.parametrize(
    "name", [n for n in NAMES if "choices" in stdlib_instructions.task_types()[n]]
)
def test_classes_are_balanced_in_the_evaluation_subset_and_after(folder, name):
    task = load(folder, name)
    choices = task.answer_choices
    assert choices
    for part in (task.instances[:EVAL_INSTANCES], task.instances[EVAL_INSTANCES:]):
        counts = [sum(i.outputs == (choice,) for i in part) for choice in choices]
        assert sum(counts) == len(part)
        assert max(counts) - min(counts) <= 1


def pairs(name: str) -> list[tuple[str, str]]:
    return list(stdlib_instructions.PAIRS[name](stdlib_instructions.read_material()))


MATERIAL = Material(
    sentences=(
        Sentence(text="Return the length, in 2 words.", module="email", kind="function"),
        Sentence(text="A reader of mail", module="turtle", kind="class"),
    ),
    functions=(
        Function(name="read_all", parameters=("path", "mode")),
        Function(name="close", parameters=("file",)),
    ),
    words=("alpha", "beta", "gamma", "delta"),
)
EXPECTED = {
    "mentions_return": ["yes", "no"],
    "contains_digit": ["yes", "no"],
    "contains_comma": ["yes", "no"],
    "documented_object": ["function", "class"],
    "class_or_function": ["function", "class"],
    "which_module": ["email", "turtle"],
    "several_parameters": ["yes", "no"],
    "first_word": ["A", "Return"],
    "second_word": ["reader", "the"],
    "last_word": ["mail", "words"],
    "first_parameter": ["file", "path"],
    "last_parameter": ["mode"],
    "function_name": ["close", "close", "read_all", "read_all"],
    "make_call": ["close(file)", "close(path)", "read_all(file)", "read_all(path)"],
    "third_person": ["returns"],
}


@pytest.mark.parametrize("name", EXPECTED)
def test_answers_by_hand(name):
    assert [answer for _, answer in stdlib_instructions.PAIRS[name](MATERIAL)] == EXPECTED[name]


def test_word_lists():
    for words, answer in stdlib_instructions.PAIRS["swap_words"](MATERIAL):
        assert answer.split() == words.split()[::-1]
    for words, answer in stdlib_instructions.PAIRS["swap_three_words"](MATERIAL):
        assert answer.split() == words.split()[::-1]
        assert len(answer.split()) == 3
    for words, answer in stdlib_instructions.PAIRS["count_words"](MATERIAL):
        assert len(words.split()) == int(answer)
    for joined, answer in pairs("split_name"):
        assert joined.split("_") == answer.split()


def test_extraction_has_few_answers_none_of_them_dominant(folder):
    for name in ("first_word", "last_word", "second_word", "first_parameter", "function_name"):
        outputs = [instance.outputs[0] for instance in load(folder, name).instances]
        counts = [outputs.count(output) for output in set(outputs)]
        assert 10 <= len(counts) <= stdlib_instructions.NUM_ANSWERS
        assert max(counts) <= stdlib_instructions.MAX_PER_ANSWER


def test_two_folders_are_equal_and_a_second_write_changes_nothing(folder, tmp_path):
    again = stdlib_instructions.write_tasks(tmp_path / "again")
    files = sorted(p.relative_to(folder) for p in folder.rglob("*") if p.is_file())
    assert files == sorted(p.relative_to(again) for p in again.rglob("*") if p.is_file())
    assert all((folder / f).read_bytes() == (again / f).read_bytes() for f in files)
    before = {f: (again / f).stat().st_mtime_ns for f in files}
    stdlib_instructions.write_tasks(again)
    assert before == {f: (again / f).stat().st_mtime_ns for f in files}
    (again / "fingerprint.txt").write_text("another Python's")
    (again / "tasks" / "stdlib_first_word.json").write_text("{}")
    stdlib_instructions.write_tasks(again)
    assert all((folder / f).read_bytes() == (again / f).read_bytes() for f in files)


def test_the_table_names_known_metrics_and_fields():
    for entry in stdlib_instructions.task_types().values():
        known = {"category", "definitions", "explanation", "choices", "held_out"}
        assert entry.keys() <= known
        assert json.dumps(entry).isascii()
    assert set(superni.DEFAULT_METRICS) <= registry.SCORES.keys()
