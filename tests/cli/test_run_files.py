"""Values that the shipped run files would use, and the run in hand does not."""

from __future__ import annotations

import re
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


def evaluation(*arguments: str):
    values = ("CHECKPOINT_PATH=x", "EVAL_OUTPUT_DIR=y")
    files = ("models/t5_1_1_tiny.gin", "data/bbh.gin", "runs/evaluate.gin", "mine.gin")
    files = [f"--gin_file={name}" for name in files]
    return golden_configs.resolve(
        ["evaluate", *files, *(f"--gin.{value}" for value in (*values, *arguments))]
    )


@pytest.mark.parametrize(
    ("flag", "line"),
    [
        ("SamplingConfig.temperature=0.7", "temperature = 0.7"),
        ("EvalConfig.metrics=['rouge_l']", "metrics = ['rouge_l']"),
        # The data file sets MAX_DECODE_LENGTH, which is nobody's wish.
        ("SamplingConfig.max_decode_length=7", "max_decode_length = 7"),
    ],
)
def test_a_parameter_set_by_its_class_leaves_the_run_files_macro_idle(flag, line):
    Path("mine.gin").write_text("")
    config = evaluation(flag)
    assert f"    {line}\n" in config.text
    assert config.notes == ()


def test_of_training_too_a_file_may_set_a_parameter_by_its_class():
    extra = "from ul2tune.training import config\nfrom ul2tune.feed import config as feed\n"
    text = resolve(
        f"{extra}config.RunConfig.log_period_steps = 3\nfeed.FeedConfig.batch_size = 6\n"
    ).text
    assert "    log_period_steps = 3\n" in text
    assert "    batch_size = 6\n" in text
    assert "LOG_PERIOD" not in text


@pytest.mark.parametrize("own", ["mine.gin:1", "--gin.TEMPERATURE=0.5"])
def test_a_macro_of_ones_own_beside_the_parameter_it_sets_is_refused(own):
    Path("mine.gin").write_text("TEMPERATURE = 0.5\n" if own == "mine.gin:1" else "")
    flags = ["SamplingConfig.temperature=0.7", *own.split("--gin.")[1:]]
    message = (
        f"{own}: TEMPERATURE is set, but SamplingConfig.temperature, which would read it, has a "
        "value of its own (--gin.SamplingConfig.temperature=0.7). Take one of the two out."
    )
    with pytest.raises(ValueError, match=rf"^{re.escape(message)}$"):
        evaluation(*flags)


def test_a_flag_of_another_command_is_told_to_be_left_out():
    Path("mine.gin").write_text("TRAIN_STEPS = 7")
    assert evaluation().notes == ("mine.gin:1: TRAIN_STEPS is not used by this command.",)
    message = "--gin.TRAIN_STEPS=7: TRAIN_STEPS is for other commands, this one has no use for it"
    with pytest.raises(ValueError, match=f"^{message}. Leave it out"):
        evaluation("TRAIN_STEPS=7")


def test_another_parameter_set_by_its_class_excuses_no_macro():
    Path("mine.gin").write_text("")
    with pytest.raises(ValueError, match=r"macro TEMPERATUR .*did you mean 'TEMPERATURE'"):
        evaluation("SamplingConfig.temperature=0.7", "TEMPERATUR=0.5")
    with pytest.raises(ValueError, match=r"INITIAL_CHECKPOINT_PATH is set, but no gin file"):
        resolve("default/INITIAL_CHECKPOINT_PATH = 'a'", "--gin.RunConfig.log_period_steps=3")


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
