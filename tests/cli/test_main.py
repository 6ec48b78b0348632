"""The command as its user meets it: fast help, one sentence per mistake, exit statuses."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ul2tune.cli import distributed, main, options

ROOT = Path(__file__).resolve().parents[2]


def ul2tune(*arguments: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "ul2tune", *arguments],
        cwd=cwd or ROOT,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )


def test_help_is_fast_and_lists_every_command():
    start = time.monotonic()
    result = ul2tune("--help")
    assert time.monotonic() - start < 1.0
    assert result.returncode == 0
    assert all(f"    {command} " in result.stdout for command in options.COMMANDS)


@pytest.mark.parametrize("command", options.COMMANDS)
def test_every_command_has_help_without_loading_anything(command, capsys):
    with pytest.raises(SystemExit) as info:
        options.parse([command, "--help"])
    assert info.value.code == 0
    assert options.COMMANDS[command][1] in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["trian"], "no command 'trian' (did you mean 'train'?)"),
        (["train", "--gin_fiel=x"], "'--gin_fiel=x' (did you mean '--gin_file'?)"),
        (["train", "--TRAIN_STEPS=3"], "did you mean '--gin.TRAIN_STEPS=…'"),
        (["train", "--gin.TRAIN_STEPS"], "--gin.TRAIN_STEPS has no value"),
        (["demo", "--gin.X=1"], "no argument '--gin.X=1'"),
        (["train", "--process_count=two"], "invalid int value: 'two'"),
        (["init"], "the following arguments are required: DIR"),
    ],
)
def test_wrong_usage_is_one_sentence_and_status_2(arguments, expected, capsys):
    assert main.main(arguments) == 2
    error = capsys.readouterr().err
    assert expected.lower() in error.lower()
    assert error.count("\n") == 1


def test_a_user_mistake_has_no_traceback():
    result = ul2tune("train", "--gin_file=runs/pretrian.gin")
    assert result.returncode == 1
    assert result.stderr.startswith("ul2tune train: gin file 'runs/pretrian.gin' is not there")
    assert "did you mean 'runs/pretrain.gin'" in result.stderr
    assert "Traceback" not in result.stderr
    assert result.stderr.count("\n") == 1


def test_debug_shows_the_traceback():
    result = ul2tune("init", str(ROOT), "--debug")
    assert result.returncode == 1
    assert "Traceback" in result.stderr


def test_init_refuses_a_folder_that_is_in_use(capsys):
    assert main.main(["init", str(ROOT)]) == 1
    assert "already exists" in capsys.readouterr().err


def test_half_of_the_process_flags_is_refused():
    found = options.parse(["train", "--process_count=2"])
    with pytest.raises(
        ValueError, match="--process_count needs --coordinator_address and --process"
    ):
        distributed.initialize(found)
