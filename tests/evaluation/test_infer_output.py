"""The file that `infer` writes to, without a model."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest

from ul2tune.evaluation import infer_output, preflight
from ul2tune.evaluation.prompts import Prompt

PROMPTS = [Prompt(line=i, id=str(i), text=f"say {i}") for i in (1, 2, 3)]
SETTINGS = {"checkpoint": "here", "sampling": {"temperature": 0.0}}


def start(output: Path) -> int:
    with contextlib.ExitStack() as held:
        return infer_output.start(output, SETTINGS, iter(PROMPTS), held)


def write(output: Path, count: int) -> None:
    infer_output.append(output, [infer_output.names(prompt) for prompt in PROMPTS[:count]])


@pytest.mark.parametrize("content", ["", "[1]", '{"sampling": '])
def test_settings_that_were_damaged_are_named(tmp_path, content):
    output = tmp_path / "out.jsonl"
    assert start(output) == 0
    write(output, 2)
    assert start(output) == 2
    (tmp_path / "out.jsonl.settings.json").write_text(content)
    with pytest.raises(ValueError, match=r"out\.jsonl\.settings\.json is damaged \(.*Delete"):
        start(output)
    assert len(output.read_bytes().splitlines()) == 2


@pytest.mark.parametrize("mode", [0o644, 0o444])
def test_an_output_has_one_writer(tmp_path, mode):
    """A second one would take the line that the first is writing for one cut off by a kill."""
    output = tmp_path / "out.jsonl"
    with contextlib.ExitStack() as held:
        assert infer_output.start(output, SETTINGS, iter(PROMPTS), held) == 0
        write(output, 2)
        torn = output.read_bytes()[:-5]
        output.write_bytes(torn)
        output.chmod(mode)
        with pytest.raises(ValueError, match=r"Another process is writing to .*out\.jsonl\. Wait"):
            start(output)
        assert output.read_bytes() == torn
    output.chmod(0o644)
    assert start(output) == 1


def test_of_two_that_begin_at_once_the_writers_settings_are_beside_its_answers(
    tmp_path, monkeypatch
):
    """Those of the one that is refused would let it go on later in what the other wrote."""
    output, check = tmp_path / "out.jsonl", preflight.check_folder
    with contextlib.ExitStack() as held:

        def begin_another(*where):
            check(*where)
            monkeypatch.undo()
            other = {**SETTINGS, "sampling": {"temperature": 1.0}}
            assert infer_output.start(output, other, iter(PROMPTS), held) == 0
            write(output, 1)

        monkeypatch.setattr(preflight, "check_folder", begin_another)
        with pytest.raises(ValueError, match="Another process is writing to"):
            start(output)
    with pytest.raises(
        ValueError, match=r"with sampling\.temperature = 1\.0, now it is 0\.0\. Delete"
    ):
        start(output)


def test_an_output_without_answers_takes_other_settings(tmp_path):
    """A start that failed later, with a model of another size, is no reason to delete anything."""
    output = tmp_path / "out.jsonl"
    assert start(output) == 0
    other = {**SETTINGS, "sampling": {"temperature": 1.0}}
    with contextlib.ExitStack() as held:
        assert infer_output.start(output, other, iter(PROMPTS), held) == 0
    write(output, 1)
    with pytest.raises(
        ValueError, match=r"with sampling\.temperature = 1\.0, now it is 0\.0\. Delete"
    ):
        start(output)


def test_a_full_disk_is_told_with_the_output(tmp_path):
    full = tmp_path / "answers.jsonl"
    full.symlink_to("/dev/full")
    with pytest.raises(OSError, match="No space") as error:
        infer_output.append(full, [{"line": 1}])
    assert error.value.filename == str(full)
