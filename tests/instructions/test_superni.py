"""Super-NI tasks -> records, their splits and scores."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.instructions.test_superni_file import NEW, write
from ul2tune.instructions import superni
from ul2tune.instructions.superni import TaskFile
from ul2tune.instructions.superni_file import Instance, load_task


def test_split_lists(tmp_path):
    path = tmp_path / "train_tasks.txt"
    path.write_text("task1_a\n\ntask2_b \n")
    assert superni.read_split(path) == ("task1_a", "task2_b")
    path.write_text("task1_a\ntask2_b\ntask1_a\n")
    with pytest.raises(ValueError, match=r"train_tasks\.txt:3: 'task1_a' is already listed on li"):
        superni.read_split(path)
    path.write_text("task1_a\n../b\n")
    with pytest.raises(ValueError, match=r"txt:2: '\.\./b' is not the name"):
        superni.read_split(path)
    path.write_text("task1_a\ntask2_b.json\n")
    with pytest.raises(ValueError, match=r"txt:2: 'task2_b\.json' is .* no \.json: leave it out"):
        superni.read_split(path)
    assert superni.split_hash(("a", "b")) != superni.split_hash(("b", "a"))


def test_selection_depends_on_seed_and_ids_only():
    instances = [Instance(id=f"i{n}", input="", outputs=("x",)) for n in range(50)]
    ten = superni.select(instances, 10, seed=1)
    assert len(ten) == 10
    assert set(ten) < set(superni.select(instances, 20, seed=1))
    assert set(ten) == set(superni.select(instances[::-1], 10, seed=1))
    assert set(ten) != set(superni.select(instances, 10, seed=2))
    assert list(ten) == sorted(ten, key=instances.index)
    assert superni.select(instances, None, seed=1) == tuple(instances)


def test_a_task_file_divides_into_splits(tmp_path):
    path = str(write(tmp_path, NEW))
    corpus = TaskFile(path=path, eval_instances=3, train_limit=4)
    train, validation = list(corpus.read("train")), list(corpus.read("validation"))
    assert [record.id for record in validation] == ["task1-0", "task1-1", "task1-2"]
    assert {record.split_level for record in validation} == {"supervised"}
    assert len(train) == 4
    assert not {record.id for record in train} & {record.id for record in validation}
    assert TaskFile(path=path, held_out=True).splits == ("validation",)
    assert TaskFile(path=path, eval_instances=0).splits == ("train",)
    (held_out, *_) = TaskFile(path=path, held_out=True, eval_instances=1).read("validation")
    assert held_out.split_level == "held_out"


def test_every_option_of_a_task_file_changes_its_fingerprint(tmp_path):
    path = str(write(tmp_path, NEW))
    prints = {
        TaskFile(path=path, **change).fingerprint()
        for change in (
            {},
            {"held_out": True},
            {"eval_instances": 3},
            {"train_limit": 4},
            {"any_definition": True},
            {"infer_choices": True},
            {"rouge": "rouge_l_gpt2"},
            {"seed": 1},
        )
    }
    assert len(prints) == 8
    before = TaskFile(path=path).fingerprint()
    Path(path).write_text(json.dumps({**NEW, "Definition": ["Other."]}))
    assert TaskFile(path=path).fingerprint() != before


def test_any_definition_draws_all_phrasings(tmp_path):
    task = load_task(write(tmp_path, NEW))
    assert {r.instruction for r in superni.records(task, any_definition=True)} == {
        *task.definitions
    }
    assert {r.instruction for r in superni.records(task)} == {task.definitions[0]}
    task = load_task(write(tmp_path, {**NEW, "Definition": ["A.", "", "B.", " \n"]}))
    assert {r.instruction for r in superni.records(task, any_definition=True)} == {"A.", "B."}


def test_choices_are_declared_or_inferred(tmp_path):
    outputs = ["yes", "no", "no"] * 3
    rows = [{"id": f"{i}", "input": "a", "output": [o]} for i, o in enumerate(outputs)]
    path = write(tmp_path, {**NEW, "Instances": rows})
    assert superni.infer_answer_choices(load_task(path)) == ("no", "yes")
    assert next(TaskFile(path=str(path), infer_choices=True).read("validation")).answer_choices
    assert superni.infer_answer_choices(load_task(write(tmp_path, NEW))) is None
    declared = {**NEW, "Answer Choices": ["red", "green"]}
    task = load_task(write(tmp_path, declared))
    assert next(superni.records(task)).answer_choices == ("red", "green")
    rows = [{"input": "a", "output": "red"}, {"input": "b", "output": " green"}]
    assert load_task(write(tmp_path, {**declared, "Instances": rows})).answer_choices
    absent = load_task(write(tmp_path, {**declared, "Answer Choices": None}))
    assert next(superni.records(absent)).answer_choices is None


def test_each_category_has_its_score(tmp_path):
    assert len(superni.CATEGORY_METRICS) == 12
    assert superni.metric_names("Word Analogy") == ("exact_match", "token_f1", "rouge_l")
    assert superni.metric_names("Title Generation") == ("rouge_l", "exact_match", "token_f1")
    assert superni.metric_names("Unheard of", "rouge_l_gpt2")[0] == "rouge_l_gpt2"
    corpus = TaskFile(path=str(write(tmp_path, NEW)), rouge="rouge_l_gpt2")
    assert next(corpus.read("validation")).metric_names == (
        "exact_match", "token_f1", "rouge_l_gpt2"
    )  # fmt: skip


def test_reads_all_files_and_lists_at_hand(shared):
    root = shared / "data" / "natural_instructions"
    tasks = [load_task(path) for path in sorted(root.glob("tasks*/*.json"))]
    assert len(tasks) == 108
    assert all(task.instances and task.category for task in tasks)
    lists = {"test": (119, 4_536), "train": (756, 30_489)}
    for split, (count, num_bytes) in lists.items():
        path = root / "splits" / "default" / f"{split}_tasks.txt"
        assert len(superni.read_split(path)) == count
        assert path.stat().st_size == num_bytes
    present = {task.name: task.category for task in tasks}
    tested = superni.read_split(root / "splits/default/test_tasks.txt")
    assert {present[name] for name in tested if name in present} <= superni.CATEGORY_METRICS.keys()
