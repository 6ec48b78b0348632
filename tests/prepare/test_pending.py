"""The shards of many tasks by one set of processes."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import seqio

from tests.prepare import reading
from ul2tune.data import manifest
from ul2tune.data.documents import FileCorpus
from ul2tune.instructions.superni import TaskFile
from ul2tune.instructions.tk_instruct import render
from ul2tune.prepare import pending, runners
from ul2tune.prepare.record_tasks import RecordSource, tk_instruct_renderer
from ul2tune.prepare.run import prepare
from ul2tune.prepare.sources import DocumentSource
from ul2tune.prepare.tasks import seqio_vocabulary
from ul2tune.status_line import StatusLine

TASKS = """
import seqio
from ul2tune.prepare.tasks import register_text_task

for number in range({count}):
    register_text_task(
        f"many_{{number}}", f"{folder}/{{number}}.jsonl", format="jsonl", vocabulary="bytes"
    )
seqio.MixtureRegistry.add("many", [f"many_{{n}}" for n in range({count})], default_rate=1)
"""


def write_many(folder, count, monkeypatch):
    """A module `many_tasks` with so many small tasks of their own file, and a mixture of them."""
    for number in range(count):
        lines = [json.dumps({"text": f"{number} {i}"}) for i in range(40)]
        (folder / f"{number}.jsonl").write_text("\n".join(lines))
    (folder / "many_tasks.py").write_text(TASKS.format(count=count, folder=folder))
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.delitem(sys.modules, "many_tasks", raising=False)


def test_receipts_go_to_their_plans_in_whatever_order_they_come():
    shards = {"a": 1, "b": 3, "c": 2}
    plans: Any = [SimpleNamespace(name=name, num_shards=n) for name, n in shards.items()]
    found: Any = [(position, f"receipt {position}") for position in (4, 2, 0, 3, 1, 5)]
    by_plan: Any = pending._by_plan(plans, found)
    gathered = [(plan.name, receipts) for plan, receipts in by_plan]
    assert gathered == [
        ("a", ["receipt 0"]),
        ("b", ["receipt 1", "receipt 2", "receipt 3"]),
        ("c", ["receipt 4", "receipt 5"]),
    ]


@pytest.mark.slow
def test_tasks_of_one_shard_are_made_side_by_side(tmp_path, monkeypatch, capfd):
    write_many(tmp_path, 4, monkeypatch)
    pools, make = [], runners.ProcessPoolExecutor
    monkeypatch.setattr(
        runners, "ProcessPoolExecutor", lambda *a, **k: pools.append(a) or make(*a, **k)
    )
    prepare("many", ["many_tasks"], str(tmp_path / "two"), num_workers=2)
    assert pools == [(2,)]
    assert "many [====================] 8/8 shards  160 documents" in capfd.readouterr().err
    prepare("many", ["many_tasks"], str(tmp_path / "one"), num_workers=1)
    assert len(pools) == 1
    assert reading.contents(tmp_path / "two") == reading.contents(tmp_path / "one")


def test_what_is_done_before_another_task_fails_is_kept(tmp_path, monkeypatch):
    write_many(tmp_path, 3, monkeypatch)
    (tmp_path / "1.jsonl").write_text('{"text": 1}\n' * 9)
    with pytest.raises(ValueError, match=r"many_1/train.*9 of 9"):
        prepare("many", ["many_tasks"], str(tmp_path / "data"), num_workers=1)
    assert manifest.read_task(tmp_path / "data", "many_0", "validation").num_examples < 10
    assert not (tmp_path / "data" / "many_1" / "train" / "manifest.json").exists()
    assert not (tmp_path / "data" / "many.mixture.json").exists()


def test_a_split_that_is_named_twice_is_made_once(tmp_path, monkeypatch, capfd):
    """Two processes would write the same shard."""
    write_many(tmp_path, 2, monkeypatch)
    splits = ("train", "validation", "train")
    prepare("many", ["many_tasks"], str(tmp_path / "data"), splits, num_workers=1)
    assert "4/4 shards" in capfd.readouterr().err


def test_comparing_that_takes_long_says_how_far_it_is(tmp_path, monkeypatch, capfd):
    write_many(tmp_path, 2, monkeypatch)
    monkeypatch.setattr(StatusLine, "is_due", lambda _: True)
    prepare("many", ["many_tasks"], str(tmp_path / "data"), num_workers=1)
    told = capfd.readouterr().err.splitlines()
    assert [line for line in told if "compared" in line] == [
        "many: 0 of 2 tasks are compared",
        "many: 1 of 2 tasks are compared",
    ]
    assert any(line.startswith("many [=====") and "1/4 shards" in line for line in told)


@pytest.mark.parametrize(("count", "lines"), [(2, 4), (12, 1)])
def test_many_tasks_that_are_up_to_date_share_a_line(count, lines, tmp_path, monkeypatch, capfd):
    write_many(tmp_path, count, monkeypatch)
    for _ in range(2):
        capfd.readouterr()
        prepare("many", ["many_tasks"], str(tmp_path / "data"), num_workers=1)
    told = [line for line in capfd.readouterr().err.splitlines() if "up to date" in line]
    assert len(told) == lines
    if lines == 1:
        assert told == ["many: 12 tasks are up to date, 480 examples in 24 splits"]


def test_workers_are_chosen_by_the_files_of_all_tasks(words, monkeypatch):
    size = Path(words).stat().st_size
    corpus = FileCorpus(files=words, format="jsonl")
    vocabulary = seqio_vocabulary("bytes")
    known = [
        DocumentSource(corpus),
        RecordSource(TaskFile(path=words), tk_instruct_renderer(render), vocabulary, 0),
    ]

    def size_of(sources, num_shards=1):
        tasks = [SimpleNamespace(source=source) for source in sources]
        plans: Any = [
            SimpleNamespace(task=task, split="train", num_shards=num_shards) for task in tasks
        ]
        return pending._input_bytes(plans)

    shard = pending._SHARD_BYTES
    expected = size + size // 32 + 2 * shard
    assert size_of(known) == expected
    unknown = seqio.TfdsDataSource("sums:1.0.0")
    assert size_of([*known, unknown]) == expected + shard  # one shard: taken for small
    assert size_of([*known, unknown], num_shards=2) is None
    monkeypatch.setattr(runners.os, "sched_getaffinity", lambda _: set(range(8)))
    assert runners.choose_num_workers(0, 2000, expected) == 1
    assert runners.choose_num_workers(0, 2000, 2**30) == 8
    assert runners.choose_num_workers(3, 2000, expected) == 3
