"""Values that the shipped run files would use, and the run in hand does not."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cli import golden_configs
from ul2tune.cli import run_files
from ul2tune.training.run import train

RECIPE = "--gin_file=recipes/ul2_base.gin"


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def resolve(extra: str, *flags: str, command: str = "train"):
    Path("mine.gin").write_text(extra)
    arguments = [RECIPE, "--gin_file=mine.gin", "--gin.MODEL_DIR=x", *flags]
    return golden_configs.resolve([command, *arguments])


@pytest.mark.parametrize(
    ("line", "remedy"),
    [
        ("INITIAL_CHECKPOINT_PATH = 'runs/a'", "runs/continue.gin"),
        ("DECODER_CHECKPOINT_PATH = 'runs/a'", "runs/adapt.gin"),
        ("REAL_ROWS = 3", "runs/extend.gin"),
    ],
)
def test_a_value_of_another_run_file_of_the_command_is_refused(line, remedy):
    with pytest.raises(ValueError, match=rf"mine.gin:1: {line.split()[0]} is set.*{remedy}"):
        resolve(line)
    flag = f"--gin.{line.replace(' = ', '=')}"
    with pytest.raises(ValueError, match=rf"{flag}: {line.split()[0]} is set.*{remedy}"):
        resolve("", flag)


def test_a_value_of_another_commands_run_file_is_a_note():
    config = resolve("EVAL_BATCH_SIZE = 3")
    assert config.notes == ("mine.gin:1: EVAL_BATCH_SIZE is not used by this command.",)


@pytest.mark.parametrize(
    "line",
    ["MODEL_DIR = 'runs/a'", "TRAIN_STEPS_RELATIVE = 3", "INITIAL_CHECKPOINT_PATH = 'runs/a'"],
)
def test_inspect_takes_the_file_and_flags_of_a_run(line):
    Path("mine.gin").write_text(line)
    files = ["data/ul2_stdlib.gin", "mine.gin", "runs/inspect.gin"]
    arguments = [*(f"--gin_file={name}" for name in files), "--gin.TRAIN_STEPS=100"]
    name = line.split()[0]
    assert golden_configs.resolve(["inspect", *arguments]).notes == (
        f"mine.gin:1: {name} is not used by this command.",
        "--gin.TRAIN_STEPS=100: TRAIN_STEPS is not used by this command.",
    )


def test_what_is_for_prepare_alone_is_a_note():
    extra = (
        "from ul2tune.prepare import run as prepare\ninclude 'runs/prepare.gin'\n"
        "prepare.prepare.max_rejected_fraction = 0.5\n"
    )
    assert resolve(extra).notes == (
        "mine.gin:3: prepare.max_rejected_fraction is for `ul2tune prepare`: run that with this "
        "file first.",
    )


@pytest.mark.parametrize("flag", ["--gin.RunConfig.seed=foo", "--gin.TRAIN_STEPS=foo"])
def test_types_are_checked_of_what_another_command_uses(flag):
    with pytest.raises(ValueError, match=r"= 'foo', but RunConfig\.\w+ must be int"):
        resolve("", flag, command="inspect")


def test_run_files_are_read_with_what_they_include():
    files = {file.name: file for file in run_files.shipped()}
    assert "INITIAL_CHECKPOINT_PATH" in files["runs/finetune.gin"].macros
    assert "INITIAL_CHECKPOINT_PATH" not in files["runs/pretrain.gin"].macros
    assert run_files.readers("BATCH_SIZE", train)[0] == "runs/adapt.gin"
    assert "runs/inspect.gin" not in run_files.readers("BATCH_SIZE", train)
