"""The command as its user meets it: fast help, one sentence per mistake, exit statuses."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
import seqio

from tests import interrupting
from ul2tune.cli import distributed, init, main, options, prepared
from ul2tune.signal_handlers import raise_ignored_interrupt

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
        (["train", "--gin.MODEL_DIR", "runs/x"], "write --gin.MODEL_DIR=VALUE"),
        (["demo", "--gin.X=1"], "no argument '--gin.X=1'"),
        (["train", "--process_count=two"], "invalid int value: 'two'"),
        (["init"], "the following arguments are required: DIR"),
        (["demo", "--gin.X=a b"], "no argument '--gin.X=a b'"),
        (["inspect", "--gin_file=x", "--batches=0"], "--batches: 0 must be at least 1"),
        (["inspect", "--gin_file=x", "--rows=-1"], "--rows: -1 must be at least 0"),
        (["inspect", "--gin_file=x", "--rows=few"], "invalid int value: 'few'"),
        (["inspect", "runs/a", "--task=t"], "leave out --task"),
        (["inspect", "runs/a", "--split", "test"], "leave out --split"),
        (["inspect", "runs/a", "--gin_file=x"], "leave out --gin_file"),
        (["inspect", "--json"], "--json is about a checkpoint"),
        (["inspect", "runs/a", "--gin.X=3"], "leave out --gin.X"),
        (["inspect", "--gin_file=x", "--json"], "--json is about a checkpoint"),
        (["inspect", "--gin_file=x", "--report=y"], "give --against"),
        (["evaluate", "--gin_file=x", "--report=y"], "--report is about outputs"),
        (["evaluate", "--tasks=t.json"], "--tasks is about outputs"),
        (["evaluate", "runs/a/eval", "--print_config"], "leave out --print_config"),
        (["evaluate", "runs/a/eval", "--gin_file=x"], "leave out --gin_file"),
        (["evaluate", "runs/a/eval", "--gin.X=3"], "leave out --gin.X"),
        (["evaluate", "--multiprocess", "--process_index=0"], "leave out --process_index"),
        (["train", "--multiprocess", "--process_count=2"], "leave out --process_count"),
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


def test_what_init_says_of_own_text_registers_a_task(tmp_path, capsys):
    assert main.main(["init", str(tmp_path / "mine")]) == 0
    said = [line.strip() for line in capsys.readouterr().out.splitlines()]
    exec("\n".join(line for line in said if "register_text_task" in line), {})
    assert "notes" in seqio.TaskRegistry.names()
    seqio.TaskRegistry.remove("notes")
    assert "--gin.MIXTURE_OR_TASK_NAME=notes" in "\n".join(said)


def test_init_refuses_a_folder_that_is_in_use(capsys):
    assert main.main(["init", str(ROOT)]) == 1
    assert "already exists" in capsys.readouterr().err


def test_errors_of_the_operating_system_say_what_to_do(tmp_path, capsys):
    (tmp_path / "file").write_text("x")
    assert main.main(["init", str(tmp_path / "file" / "project")]) == 1
    where = f"'{tmp_path}/file/project'"
    expected = f"ul2tune init: {where}: Not a directory. Check the path: a part of it is a file"
    assert capsys.readouterr().err.startswith(expected)


def _disk_is_full(_):
    with open("/dev/full", "w") as file:
        file.write("x")


def _replaces_a_folder(folder):
    (folder / "new").write_text("x")
    (folder / "old").mkdir()
    os.replace(folder / "new", folder / "old")


@pytest.mark.parametrize(
    ("act", "expected"),
    [
        (_disk_is_full, "ul2tune init: No space left on device. Free some space"),
        (_replaces_a_folder, "/new' -> '{}/old': Is a directory. Check the path"),
    ],
)
def test_they_name_every_file_they_know(act, expected, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(init, "run", lambda _: act(tmp_path))
    assert main.main(["init", "x"]) == 1
    assert expected.format(tmp_path) in capsys.readouterr().err


def test_too_little_memory_is_one_sentence(capsys, monkeypatch):
    monkeypatch.setattr(init, "run", lambda _: np.zeros(2**60, np.int32))
    assert main.main(["init", "x"]) == 1
    error = capsys.readouterr().err
    assert error.startswith("ul2tune init: Not enough memory (Unable to allocate 4.00 EiB")
    assert "BATCH_SIZE" in error
    assert error.count("\n") == 1


def test_half_of_the_process_flags_is_refused():
    found = options.parse(["train", "--process_count=2"])
    with pytest.raises(
        ValueError, match="--process_count needs --coordinator_address and --process"
    ):
        distributed.initialize(found)


def test_values_with_spaces_are_values_everywhere():
    for command in options.GIN_COMMANDS:
        found = options.parse([command, "--gin.A={'a': 1, 'b': 2}", "--gin_file=x", "--gin.B=c d"])
        assert found.gin == [("A", "{'a': 1, 'b': 2}"), ("B", "c d")]
        assert not getattr(found, "outputs", [])
        assert not getattr(found, "checkpoints", [])


@pytest.mark.parametrize("format", ["hf", "t5x"])
def test_text_only_is_of_transformers(format, capsys, tmp_path):
    assert main.main(["import", format, str(tmp_path / "x"), str(tmp_path / "y"), "--text_only"])
    refused = "--text_only means something to the format 'hf' only" in capsys.readouterr().err
    assert refused == (format == "t5x")


def test_a_cluster_that_is_not_there_is_said_to_be_so(monkeypatch):
    def initialize(**_):
        raise ValueError("coordinator_address should be defined.")

    monkeypatch.setattr(jax.distributed, "initialize", initialize)
    with pytest.raises(ValueError, match=r"--multiprocess: JAX finds no cluster here .*Give --c"):
        distributed.initialize(options.parse(["train", "--multiprocess"]))


GONE = (
    "UNKNOWN: Gloo AllGather failed: [pair.cc:547] Connection closed by peer [127.0.0.1]:49845",
    "UNAVAILABLE: Failed to send RPC to coordination service.\nSocket closed",
)
# Processes that run different programs: a bug, of which all are still there.
MISMATCH = (
    "UNKNOWN: Gloo AllReduce failed: [enforce fail at external/gloo/gloo/transport/tcp/pair.cc:450]"
    " op.preamble.length <= op.nbytes. 8 vs 4"
)


@pytest.mark.parametrize(
    ("message", "joined", "told"),
    [
        (GONE[0], True, f"process 0 of 1 has lost another one ({GONE[0]}). Look at"),
        (GONE[1], True, "lost another one (UNAVAILABLE: Failed to send RPC to coordination servic"),
        ("RESOURCE_EXHAUSTED: Out of memory", True, "Traceback"),
        (MISMATCH, True, "Traceback"),
        (GONE[0], False, None),
    ],
)
def test_who_has_lost_another_process_says_so(capsys, monkeypatch, message, joined, told):
    def fail(_):
        raise jax.errors.JaxRuntimeError(message)

    monkeypatch.setattr(init, "run", fail)
    monkeypatch.setattr(distributed, "_joined", joined)
    monkeypatch.setattr(distributed, "leave", lambda status: status)
    if told is None:  # a bug of one process keeps its traceback
        with pytest.raises(jax.errors.JaxRuntimeError):
            main.main(["init", "x"])
        return
    assert main.main(["init", "x"]) == 1
    error = capsys.readouterr().err
    assert told in error
    assert (error.count("\n") == 1) == (told != "Traceback")


def test_an_interrupt_does_not_cut_an_import_short(tmp_path, monkeypatch, capsys):
    """An extension would fail with an error of its own, or crash."""
    imported = []

    def load(name: str) -> Any:
        os.kill(os.getpid(), signal.SIGINT)
        imported.append(name)
        return init

    monkeypatch.setattr(main.importlib, "import_module", load)
    assert main.main(["init", str(tmp_path / "mine")]) == 130
    assert capsys.readouterr().err == "\nul2tune init: interrupted.\n"
    assert imported == ["ul2tune.cli.init"]
    assert not (tmp_path / "mine").exists()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_an_interrupt_that_was_ignored_before_a_loop_is_raised_in_it(monkeypatch, capsys):
    def run(_) -> None:
        interrupting.collect()
        raise_ignored_interrupt()

    monkeypatch.setattr(init, "run", run)
    assert main.main(["init", "x"]) == 130
    assert "interrupted" in capsys.readouterr().err


def test_init_leaves_nothing_half_written(tmp_path, monkeypatch, capsys):
    copy = shutil.copyfile

    def full(source: Any, target: Any, **options: Any) -> None:
        if ROOT / "tasks" in Path(source).parents:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(source), None, str(target))
        copy(source, target, **options)

    with monkeypatch.context() as patch:
        patch.setattr(shutil, "copyfile", full)
        assert main.main(["init", str(tmp_path / "mine")]) == 1
    error = capsys.readouterr().err
    assert "Free some space" in error
    assert error.count("No space") == error.count("\n") == 1  # not once for every file
    assert not list((tmp_path / "mine").iterdir())
    assert main.main(["init", str(tmp_path / "mine")]) == 0
    assert (tmp_path / "mine/tasks/ul2.py").read_bytes() == (ROOT / "tasks/ul2.py").read_bytes()
    assert {path.name for path in (tmp_path / "mine").iterdir()} == {"gin", "tasks"}


def test_init_refuses_a_file_and_prints_a_command_to_type(tmp_path, capsys):
    (tmp_path / "file").write_text("x")
    assert main.main(["init", str(tmp_path / "file")]) == 1
    assert "is a file; name a folder" in capsys.readouterr().err
    assert main.main(["init", str(tmp_path / "my project")]) == 0
    assert f"  cd '{tmp_path}/my project'\n" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("module", "remedy"),
    [
        ("matplotlib.pyplot", "pip install 'ul2tune[report]'"),
        ("seqio", "pip install 'ul2tune[prepare]'"),
        ("rouge_score", "pip install 'ul2tune[eval]'"),
        ("somebodys", None),
    ],
)
def test_a_missing_module_is_named_with_its_extra(module, remedy, monkeypatch, capsys):
    def run(found):
        raise ModuleNotFoundError(f"No module named {module!r}", name=module)

    monkeypatch.setattr(init, "run", run)
    assert main.main(["init", "x"]) == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert (remedy or "") in error
    assert ("Install it" in error) == (remedy is not None)


@pytest.mark.parametrize(
    ("flags", "split"),
    [
        ([], "train"),
        (["--split=test"], "test"),
        (["--gin.FeedConfig.split='dev'"], "dev"),
        (["--gin.FeedConfig.split='dev'", "--split=test"], "test"),
    ],
)
def test_inspect_prepares_the_split_that_it_shows(flags, split, monkeypatch, tmp_path, capsys):
    commands, popen = [], subprocess.Popen

    def prepare(command, env):
        assert env["UL2TUNE_PREPARE"] == "missing"  # looking replaces nothing
        commands.append(command)
        return popen([sys.executable, "-c", "raise SystemExit(3)"])

    monkeypatch.setattr(prepared.subprocess, "Popen", prepare)
    arguments = ["--gin_file=recipes/ul2_base.gin", "--gin.MODEL_DIR=x"]
    assert main.main(["inspect", *arguments, f"--gin.DATA_DIR={tmp_path}", *flags]) == 1
    assert "Preparing it failed with exit status 3" in capsys.readouterr().err
    assert f"--gin.PREPARE_SPLITS=({split!r},)" in commands[0]


def test_a_user_without_a_home_can_run_commands(tmp_path, monkeypatch, capsys):
    """As in containers, whose user is a mere number."""

    def home() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", home)
    for name in ("UL2TUNE_CACHE_DIR", "XDG_CACHE_HOME", "JAX_COMPILATION_CACHE_DIR"):
        monkeypatch.delenv(name, raising=False)
    assert main.main(["init", str(tmp_path / "project")]) == 0
    assert "JAX_COMPILATION_CACHE_DIR" not in os.environ
