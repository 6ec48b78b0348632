"""BIG-Bench Hard's prompts, byte for byte."""

from __future__ import annotations

import json

import pytest

from ul2tune.instructions.suites import bbh
from ul2tune.instructions.suites.bbh import BbhTask

PROMPT = (
    "do not train on this\n-----\nAdd the numbers.\n\nQ: 1+1\nOptions:\n(A) 2\n"
    "A: Let's think step by step.\nOne and one is two. So the answer is (A).\n\nQ: 2+2\n"
    "A: Let's think step by step.\nSo the answer is 4."
)


@pytest.fixture
def folder(tmp_path):
    for name in ("bbh", "cot-prompts"):
        (tmp_path / name).mkdir()
    rows = [{"input": "3+3", "target": "6"}, {"input": "", "target": "0"}]
    (tmp_path / "bbh/sums.json").write_text(json.dumps({"examples": rows}))
    (tmp_path / "cot-prompts/sums.txt").write_text(PROMPT)
    return tmp_path


def test_both_prompts(folder):
    first, second = bbh.load(folder, "sums")
    assert (first.id, second.id) == ("sums-0", "sums-1")
    chain = bbh.render(first)
    body = PROMPT.partition("-----\n")[2]
    assert chain.inputs == body + "\n\nQ: 3+3\nA: Let's think step by step."
    assert chain.demo_ids == ("cot-1", "cot-2")
    assert chain.targets == " So the answer is 6."
    direct = bbh.render(first, chain_of_thought=False)
    assert direct.inputs == (
        "Add the numbers.\n\nQ: 1+1\nOptions:\n(A) 2\nA: (A)\n\nQ: 2+2\nA: 4\n\nQ: 3+3\nA:"
    )
    assert direct.targets == " 6"


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("cot-prompts/sums.txt", "no rule", "no line '-----'"),
        ("cot-prompts/sums.txt", "x\n-----\nOnly words", "no worked example"),
        ("cot-prompts/sums.txt", "x\n-----\nd\n\nQ: 1\nA: 2", "worked example 1 has no line"),
        ("bbh/sums.json", "{", r"sums\.json:1: not valid JSON"),
        ("bbh/sums.json", "[]", "expected a JSON object, got list"),
        ("bbh/sums.json", "{}", "'examples' must be a list"),
        ("bbh/sums.json", '{"examples": [3]}', r"examples\[0\] must be an object"),
        ("bbh/sums.json", '{"examples": [{"input": "a"}]}', r"examples\[0\]: 'target' must be a"),
    ],
)
def test_a_malformed_file_is_named_with_the_reason(folder, file, content, message):
    (folder / file).write_text(content)
    with pytest.raises(ValueError, match=message) as error:
        list(bbh.load(folder, "sums"))
    assert str(folder / file) in str(error.value)


def test_missing_files(folder, tmp_path):
    assert bbh.task_names(folder) == ("sums",)
    (folder / "cot-prompts/sums.txt").unlink()
    with pytest.raises(ValueError, match=r"sums\.txt does not exist"):
        list(bbh.load(folder, "sums"))
    with pytest.raises(ValueError, match="no task files"):
        bbh.task_names(tmp_path / "bbh")


def test_the_fingerprint_sees_both_files(folder):
    task = BbhTask(folder=str(folder), task="sums")
    before = task.fingerprint()
    assert len(list(task.read("validation"))) == 2
    (folder / "cot-prompts/sums.txt").write_text(PROMPT + " ")
    assert task.fingerprint() != before


def test_equals_the_authors_prompts(shared):
    root = shared / "data" / "bbh"
    prompts = {
        kind: json.loads((root / f"codex_outputs/first_prompt_{kind}.json").read_text())["prompts"]
        for kind in ("cot", "direct")
    }
    tasks, examples, other = bbh.task_names(root), 0, set()
    assert len(tasks) == 27
    for task in tasks:
        first, *rest = bbh.load(root, task)
        examples += 1 + len(rest)
        assert bbh.render(first).inputs == prompts["cot"][task]
        if bbh.render(first, chain_of_thought=False).inputs != prompts["direct"][task]:
            other.add(task)
    assert other == bbh.OTHER_DIRECT_PROMPTS
    assert examples == 6511
