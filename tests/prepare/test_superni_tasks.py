"""Which tasks of a folder of Super-NaturalInstructions are registered, and what is refused."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import seqio

from ul2tune.data import vocab
from ul2tune.prepare.superni_tasks import register_superni

pytestmark = pytest.mark.tensorflow


def register(folder: Path, name: str, *, train: str, test: str, files: str = "a b c") -> list[str]:
    """Registers lists of tasks, of which those in `files` are there; returns the tasks' names."""
    (folder / "tasks").mkdir()
    (folder / "splits" / "default").mkdir(parents=True)
    for task in files.split():
        (folder / "tasks" / f"{task}.json").write_text("{}")
    for split, tasks in (("train", train), ("test", test)):
        text = "".join(f"{task}\n" for task in tasks.split())
        (folder / "splits" / "default" / f"{split}_tasks.txt").write_text(text)
    register_superni(folder, name=name, vocabulary=vocab.ByteVocabulary())
    return sorted(set(seqio.TaskRegistry.names()))


def refused(folder: Path, name: str, **lists: str) -> str:
    before = set(seqio.TaskRegistry.names())
    with pytest.raises(ValueError, match=re.escape(str(folder))) as caught:
        register(folder, name, **lists)
    assert set(seqio.TaskRegistry.names()) == before
    return str(caught.value)


def test_a_task_in_both_lists_is_refused_with_both(name, tmp_path):
    lists = tmp_path / "splits" / "default"
    assert refused(tmp_path, name, train="a b", test="c b") == (
        f"{lists / 'train_tasks.txt'} and {lists / 'test_tasks.txt'} both list b. A task trained "
        "on is no held-out one: take it out of one of the lists."
    )


@pytest.mark.parametrize(("train", "test"), [("x-y x_y", "a"), ("a x-y", "x_y")])
def test_two_tasks_of_one_name_in_seqio_are_refused_with_both(name, tmp_path, train, test):
    message = refused(tmp_path, name, train=train, test=test, files="a x-y x_y")
    tasks = tmp_path / "tasks"
    assert message.startswith(
        f"{tasks / 'x-y.json'} and {tasks / 'x_y.json'} would both be SeqIO's task x_y: "
    )
    assert message.endswith("Rename one, in its list too.")


def test_a_list_in_which_only_absent_tasks_overlap_is_taken(name, tmp_path):
    found = register(tmp_path, name, train="a z", test="b z")
    assert {f"{name}_a", f"{name}_b"} <= set(found)


def test_the_first_absent_tasks_are_named(name, tmp_path, capsys):
    register(tmp_path, name, train="a p", test="b p q r s t")
    train, test = capsys.readouterr().err.splitlines()
    assert train.endswith("the others are left out (p).")
    assert test.endswith("the others are left out (p, q, r and 2 more).")


def test_a_list_without_tasks_is_said_to_be_empty(name, tmp_path):
    message = refused(tmp_path, name, train="a", test="")
    assert re.search(r"test_tasks\.txt is empty\. Write one task's name a line", message)


def test_a_list_of_absent_tasks_alone_names_them(name, tmp_path):
    message = refused(tmp_path, name, train="a", test="p q")
    assert re.search(r"has none of the 2 tasks of .*test_tasks\.txt \(p, q\)\.", message)
