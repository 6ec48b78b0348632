"""Data that is missing is prepared by a child process; what is there is never replaced."""

from __future__ import annotations

import dataclasses
import os
import signal
import subprocess
import sys
import threading

import pytest

from tests.cli import test_resume as resume
from tests.evaluation import prepared as evaluation_data
from tests.training import processes, tiny
from ul2tune.cli import prepared
from ul2tune.data import manifest, stamp


def make(folder, task: str, split: str) -> None:
    path = manifest.task_dir(folder, task, split) / "manifest.json"
    path.parent.mkdir(parents=True)
    path.write_text("{}")


def test_missing_splits(tmp_path):
    both = ("train", "validation")
    assert prepared.missing_splits("mix", str(tmp_path), both) == ["train", "validation"]
    mixture = manifest.MixtureManifest(name="mix", tasks=("a", "b"), rates=(0.5, 0.5))
    manifest.write(mixture, manifest.mixture_path(tmp_path, "mix"))
    make(tmp_path, "a", "train")
    assert prepared.missing_splits("mix", str(tmp_path), both) == ["train", "validation"]
    make(tmp_path, "b", "train")
    assert prepared.missing_splits("mix", str(tmp_path), both) == ["validation"]


TASKS = """
from ul2tune.prepare.tasks import register_text_task

register_text_task(
    "notes", {files!r}, format="documents", vocabulary="bytes", objective="ul2",
    validation_fraction=0.3,
)
"""


CHILD = """
import os, subprocess, sys, time
from ul2tune.cli import prepared

popen = subprocess.Popen

def start(command, **_):
    child = popen([sys.executable, "-c", "import time; time.sleep(60)"])
    wait = child.wait

    def waited_for(timeout=None):
        print(child.pid, flush=True)
        child.wait = wait
        return wait(timeout)

    child.wait = waited_for
    return child

subprocess.Popen = start
prepared.prepare_missing(mixture="notes", modules=(), data_dir=sys.argv[1])
"""


def test_a_terminated_run_takes_its_child_along(tmp_path):
    command = [sys.executable, "-c", CHILD, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as run:
        assert run.stdout is not None
        first, second = run.stdout.readline(), run.stdout.readline()
        assert first.startswith("Preparing notes")
        run.send_signal(signal.SIGTERM)
        assert run.wait(30) == 128 + signal.SIGTERM
    with pytest.raises(ProcessLookupError):
        os.kill(int(second), 0)


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A task module and its text; the working directory, also of children."""
    (tmp_path / "own_tasks.py").write_text(TASKS.format(files=str(tmp_path / "*.txt")))
    (tmp_path / "notes.txt").write_text("\n\n".join(f"This is note {i}." for i in range(30)))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", ":".join(path for path in sys.path if path))
    return tmp_path


ASK = {"modules": ("own_tasks",), "data_dir": "data", "num_workers": 1}


def online(split: str = "train") -> str:
    return str(manifest.read_task("data", "notes", split).online)


def edit(project) -> None:
    """Another task by the same name."""
    tasks = project / "own_tasks.py"
    tasks.write_text(tasks.read_text().replace('"ul2"', '"ul2r"'))


def contents(project) -> dict[str, bytes]:
    files = (path for path in (project / "data").rglob("*") if path.is_file())
    return {str(path): path.read_bytes() for path in files}


@pytest.mark.slow
def test_a_child_prepares_what_is_missing_and_replaces_nothing(project, capfd, caplog):
    modules_before = set(sys.modules)
    prepared.prepare_missing(mixture="notes", **ASK)
    assert "tensorflow" not in set(sys.modules) - modules_before
    assert manifest.read_task("data", "notes", "train").num_examples > 0
    capfd.readouterr()
    prepared.prepare_missing(mixture="notes", **ASK, begins=True)
    assert capfd.readouterr().out == caplog.text == ""
    before = contents(project)
    edit(project)
    prepared.prepare_missing(mixture="notes", **ASK)
    assert "before these changed: module own_tasks. It is used as it is" in caplog.text
    with pytest.raises(
        ValueError, match=r"own_tasks; run `ul2tune prepare` for \w+, which keeps .* DATA_DIR"
    ):
        prepared.prepare_missing(mixture="notes", **ASK, begins=True)
    assert contents(project) == before
    command = [sys.executable, "-m", "ul2tune", "prepare", "--gin_file=runs/prepare.gin"]
    macros = ["MIXTURE_OR_TASK_NAME='notes'", "TASK_MODULES=('own_tasks',)", "DATA_DIR='data'"]
    subprocess.run([*command, *(f"--gin.{macro}" for macro in macros)], check=True)
    assert contents(project) != before
    prepared.prepare_missing(mixture="notes", **ASK, begins=True)


def test_a_module_that_is_nowhere_is_told(project, caplog):
    found = manifest.MixtureManifest(
        name="mix", tasks=("a",), rates=(1.0,), stamps={"train": stamp.make(["own_tasks"], [])}
    )
    manifest.write(found, manifest.mixture_path("data", "mix"))
    make("data", "a", "train")
    ask = {"mixture": "mix", "data_dir": "data", "splits": ("train",)}
    prepared.prepare_missing(**ask, modules=("own_tasks", "json"))
    (project / "own_tasks.py").unlink()  # as on a machine that only trains
    prepared.prepare_missing(**ask, modules=("own_tasks",))
    assert not caplog.text
    prepared.prepare_missing(**ask, modules=("own_tusks",))
    assert "TASK_MODULES: own_tusks is not found, and mix in data was prepared" in caplog.text


KILLED = """
import os, signal, time
os.kill(os.getppid(), signal.SIGKILL)
time.sleep(20)
print("still here", flush=True)
"""


@pytest.mark.slow
def test_a_killed_run_takes_its_child_along(project):
    (project / "own_tasks.py").write_text(KILLED)
    ask = f"from ul2tune.cli import prepared; prepared.prepare_missing(mixture='notes', **{ASK!r})"
    # Returns when nobody has the pipe: the child had it too.
    run = subprocess.run([sys.executable, "-c", ask], stdout=subprocess.PIPE, text=True)
    assert run.returncode == -signal.SIGKILL
    assert run.stdout.startswith("Preparing notes")
    assert "still here" not in run.stdout


@pytest.mark.slow
def test_a_childs_failure_is_ours_and_its_limit_is_our_limit(project, capfd):
    (project / "bad.txt").write_bytes(b"\xff")
    message = r"data' lacks notes \(train, validation\)\. Preparing it failed .* 1.*elsewhere"
    with pytest.raises(ValueError, match=message):
        prepared.prepare_missing(mixture="notes", **ASK)
    assert "1 of 31 records are malformed" in capfd.readouterr().err
    prepared.prepare_missing(mixture="notes", **ASK, max_rejected_fraction=0.04)


@pytest.fixture
def stale(project):
    """Prepared data, as far as manifests go, of a task module that has changed."""
    make(project / "data", "notes", "train")
    old = stamp.make(("own_tasks",), ())
    mixture = manifest.MixtureManifest(
        name="notes", tasks=("notes",), rates=(1.0,), stamps={"train": old}
    )
    path = manifest.mixture_path("data", "notes")
    manifest.write(mixture, path)
    (project / "own_tasks.py").write_text("# changed")
    return path


def test_changed_data_stops_a_run_that_begins_and_is_used_by_any_other(stale, caplog):
    ask = {"mixture": "notes", **ASK, "splits": ("train",)}
    prepared.prepare_missing(**ask)
    assert "module own_tasks. It is used as it is; run `ul2tune prepare`" in caplog.text
    with pytest.raises(
        ValueError, match=r"\(train\) in data was .* changed: module own_tasks; run"
    ):
        prepared.prepare_missing(**ask, begins=True)


@pytest.mark.slow
def test_process_0_decides_for_all_whether_a_run_begins(tmp_path):
    """Here the other one sees a MODEL_DIR with a checkpoint, and would go on alone."""
    tiny.write_data(tmp_path)
    stale = {"modules": {}, "sources": {}, "variables": {"MY_RULE": "x"}}
    stamps = {"train": stale, "validation": stale}
    mixture = manifest.read_mixture(tmp_path, "mix")
    path = manifest.mixture_path(tmp_path, "mix")
    manifest.write(dataclasses.replace(mixture, stamps=stamps), path)
    (tmp_path / "run1" / "checkpoints" / "1").mkdir(parents=True)
    address = f"--coordinator_address=127.0.0.1:{processes.free_port()}"
    started = []
    for i in range(2):
        macros = resume.MACROS | {"DATA_DIR": str(tmp_path), "MODEL_DIR": f"{tmp_path}/run{i}"}
        flags = [f"--gin_file={file}" for file in resume.FILES]
        flags += [f"--gin.{name}={value!r}" for name, value in macros.items()]
        flags += ["--gin.TRAIN_STEPS=1", address, "--process_count=2", f"--process_index={i}"]
        started.append(processes.launch("ul2tune", "train", *flags, JAX_NUM_CPU_DEVICES="2"))
    for text in processes.finish_all(started, expect=1):
        assert "before these changed: environment variable MY_RULE; run `ul2tune prepare`" in text


def test_a_host_whose_view_of_the_disk_lags_waits_a_little(stale, project, monkeypatch):
    monkeypatch.setattr(prepared, "POLL_SECS", 0.01)
    ask = ("notes", "data", ("validation",))
    with pytest.raises(ValueError, match=r"Process 1 does not find notes \(validation\) in data,"):
        prepared._check_seen(*ask, 0.1, 1)
    thread = threading.Thread(target=prepared._check_seen, args=(*ask, 60.0, 1), daemon=True)
    thread.start()
    thread.join(timeout=0.5)
    assert thread.is_alive()
    make(project / "data", "notes", "validation")
    thread.join(timeout=30)
    assert not thread.is_alive()


def in_two(command: str, *data_dirs, **macros) -> list[str]:
    """What two processes write that fail together."""
    flags = ["--gin_file=models/t5_1_1_tiny.gin", f"--gin_file=runs/{command}.gin"]
    flags += [f"--gin.{name}={value!r}" for name, value in macros.items()]
    flags += [f"--coordinator_address=127.0.0.1:{processes.free_port()}", "--process_count=2"]
    started = [
        processes.launch(
            *("ul2tune", command, *flags, f"--gin.DATA_DIR={str(data_dir)!r}"),
            f"--process_index={i}",
        )
        for i, data_dir in enumerate(data_dirs)
    ]
    return processes.finish_all(started, expect=1)


def evaluate_in(folder) -> dict[str, object]:
    """Macros of an evaluation whose checkpoint is there, as far as folders go."""
    (folder / "7" / "meta").mkdir(parents=True)
    places = {"CHECKPOINT_PATH": f"{folder}/7", "EVAL_OUTPUT_DIR": f"{folder}/out"}
    return {"TASK_MODULES": (), **places}


INFER = {"CHECKPOINT_PATH": "x", "INFER_INPUT": "x", "INFER_OUTPUT": "y"}


@pytest.mark.slow
def test_what_process_0_cannot_prepare_ends_all_with_one_sentence(tmp_path):
    tiny.write_data(tmp_path)
    macros = evaluate_in(tmp_path) | {"MIXTURE_OR_TASK_NAME": "mix", "EVAL_SPLIT": "tset"}
    first, second = in_two("evaluate", tmp_path, tmp_path, **macros)
    sentence = (
        f"DATA_DIR = '{tmp_path}' lacks mix (tset). Preparing it failed with exit status 1, see"
    )
    assert "ul2tune prepare: " in first
    remedy = "If it was prepared elsewhere, set DATA_DIR to that folder or a copy of it.\n"
    assert first.endswith(f"ul2tune evaluate: {sentence} above. {remedy}")
    assert second.endswith(f"ul2tune evaluate: {sentence} what process 0 printed. {remedy}")


@pytest.mark.slow
def test_data_that_one_process_does_not_see_ends_all(tmp_path):
    tiny.write_data(tmp_path / "data")
    macros = evaluate_in(tmp_path) | {"MIXTURE_OR_TASK_NAME": "mix"}
    for text in in_two("evaluate", tmp_path / "data", tmp_path / "other", **macros):
        assert f"Process 1 does not find mix (validation) in {tmp_path}/other, which" in text


@pytest.mark.slow
@pytest.mark.parametrize(
    ("command", "gone", "macros"),
    [("evaluate", "data-*", evaluate_in), ("infer", "manifest.json", lambda _: INFER)],
)
def test_what_process_0_alone_cannot_read_ends_all(tmp_path, command, gone, macros):
    first, second = (evaluation_data.write(tmp_path / name) for name in ("first", "second"))
    for path in first.rglob(gone):
        path.unlink()
    macros = macros(tmp_path) | {"MIXTURE_OR_TASK_NAME": "instructions"}
    said, repeated = in_two(command, first, second, **macros)
    sentence = said.splitlines()[-1]
    assert sentence.startswith(f"ul2tune {command}: ")
    assert str(first) in sentence
    assert repeated.endswith(f"{sentence} (process 0)\n")
