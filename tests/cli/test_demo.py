"""The demo's report from what its stages leave behind, and the bookkeeping between stages."""

from __future__ import annotations

import argparse
import base64
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from ul2tune.cli import demo, demo_plots, demo_report, demo_stages, report_data


def write_lines(path: Path, lines: list[dict]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


@pytest.fixture
def finished(tmp_path):
    """A demo folder after all stages, with small numbers of known values."""
    for name in report_data.TRAINING:
        write_lines(
            tmp_path / name / "metrics.jsonl",
            [
                {"step": 10, "loss": 4.0, "loss/t/R": 3.0, "loss/t/S": 5.0, "encoder_fill": 0.9},
                {"step": 20, "loss": 2.0, "loss/t/R": 1.0, "validation/loss": 2.5},
            ],
        )
        rates = [{"step": step, "tokens_per_sec": value} for step, value in ((10, 1), (20, 900))]
        write_lines(
            tmp_path / name / "timing.jsonl", [*rates, {"step": 30, "tokens_per_sec": 1000}]
        )
    for when, score in (("before", 10.0), ("after", 60.0)):
        for group in report_data.GROUPS:
            folder = tmp_path / f"{when}_{group}"
            # Task `t` has "yes" twice in four, `u` two different answers.
            lines = [
                {"task": task, "id": f"{number}", "prompt": f"{task}: 1 < 2 & 3?"}
                | {"references": [answer], "prediction": when}
                for task, answers in (("t", "yes no yes maybe"), ("u", "left right"))
                for number, answer in enumerate(answers.split())
            ]
            write_lines(folder / "predictions.jsonl", lines)
            scores = {"exact_match": score, "rouge_l": score}
            table = {"overall": scores, "tasks": {"t": scores, "u": scores}}
            (folder / "metrics.json").write_text(json.dumps(table))
    stages = {stage.name: {"arguments": [], "secs": 1.5} for stage in demo_stages.stages(tmp_path)}
    (tmp_path / demo_stages.FINISHED).write_text(json.dumps(stages))
    return tmp_path


def test_report_holds_numbers_curves_and_samples(finished):
    path = demo_report.write(report_data.collect(finished), finished)
    page = path.read_text(encoding="utf-8")
    cells = '<td class="number">{}</td>' * 4
    assert "<td>exact match</td>" + cells.format("6", "10.0", "60.0", "50.0") in page
    assert "<td>t</td>" + cells.format("4", "10.0", "60.0", "50.0") in page
    assert "<td>u</td>" + cells.format("2", "10.0", "60.0", "50.0") in page
    assert "<td>ROUGE-L</td>" in page
    assert "4.000 → 2.000" in page
    # One sample of every task type.
    assert page.count("t: 1 &lt; 2 &amp; 3?") == page.count("u: 1 &lt; 2 &amp; 3?") == 2
    assert "exact match 10.0 → 60.0 % of 6 (most frequent answer: 50.0 %)" in page
    assert f"ul2tune train --gin_file=recipes/demo_pretrain.gin --gin.MODEL_DIR={finished}" in page
    images = {"loss.png", *(f"loss_{name}_by_source.png" for name in report_data.TRAINING)}
    for image in images | {"metrics.png"}:
        data = (finished / image).read_bytes()
        assert data.startswith(b"\x89PNG")
        assert base64.b64encode(data).decode() in page  # the page is whole by itself
    assert images | {"metrics.png", path.name} == set(demo_stages.REPORT_FILES)


def test_answers_may_hold_what_python_takes_for_ends_of_lines(finished):
    file = finished / "after_held_out" / "predictions.jsonl"
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    lines[0]["prediction"] = "one\u2028two\u0085three"
    text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
    file.write_text(text, encoding="utf-8")  # as `evaluate` writes it
    found = report_data.collect(finished).after["held_out"].predictions
    assert list(found) == lines


def test_a_smoothed_curve_starts_where_its_values_do():
    assert demo_plots.smooth([4.0, 4.0, 4.0]) == pytest.approx([4.0] * 3)
    assert demo_plots.smooth([2.0, 0.0], weight=0.5) == pytest.approx([2.0, 2 / 3])


def test_numbers_in_words(finished):
    words = report_data.describe(report_data.collect(finished))
    assert "4.000 ->  2.000" in words
    assert "900" in words  # the median: the first rate holds the compilation
    (row, *_) = [line.split() for line in words.splitlines() if "exact match" in line]
    assert row == ["exact", "match", "6", "10.0", "60.0", "50.0"]


def test_stages_follow_one_checkpoint(tmp_path):
    by_name = {stage.name: " ".join(stage.arguments) for stage in demo_stages.stages(tmp_path)}
    assert f"INITIAL_CHECKPOINT_PATH='{tmp_path / 'pretrain'}'" in by_name["ul2r"]
    assert f"INITIAL_CHECKPOINT_PATH='{tmp_path / 'ul2r'}'" in by_name["tune"]
    assert f"CHECKPOINT_PATH='{tmp_path / 'ul2r'}'" in by_name["before_held_out"]
    assert f"CHECKPOINT_PATH='{tmp_path / 'tune'}'" in by_name["after_held_out"]
    assert "'" not in demo_stages.shell(demo_stages.stages(tmp_path)[0].arguments)
    words = shlex.split(demo_stages.shell(demo_stages.stages(Path("my demo"))[0].arguments))
    assert "--gin.MODEL_DIR=my demo/pretrain" in words


@pytest.fixture
def run(tmp_path, monkeypatch, capfd):
    """Runs two stages, the second after the first, whose command is to write their files."""
    configurations = {"a": "1", "b": "1"}
    monkeypatch.setattr(
        demo_stages, "configuration", lambda arguments: configurations[arguments[0]]
    )
    both = [
        demo_stages.Stage(name="a", title="first", arguments=("a",), outputs=("a/x",)),
        demo_stages.Stage(name="b", title="second", arguments=("b",), after="a", outputs=("b/x",)),
    ]
    ran: list[str] = []

    def child(command):
        name = command[-1]
        ran.append(name)
        (tmp_path / name).mkdir(exist_ok=True)
        (tmp_path / name / "x").touch()
        return configurations.get("status", 0)

    monkeypatch.setattr(demo_stages, "run_child", child)
    demo_stages.enter(tmp_path, fresh=False)

    def go() -> str:
        ran.clear()
        for stage in both:
            demo_stages.run_stage(stage, "[1/1]", tmp_path)
        return "".join(ran)

    go.configurations, go.folder = configurations, tmp_path
    return go


def test_what_has_finished_is_not_run_again(run, capfd):
    assert run() == "ab"
    capfd.readouterr()
    assert run() == ""
    assert capfd.readouterr().out == "[1/1] first: finished before\n[1/1] second: finished before\n"


def test_stages_of_another_configuration_or_without_files_run_again_with_all_after(run):
    assert run() == "ab"
    run.configurations["b"] = "2"
    (run.folder / "b" / "old").touch()
    assert run() == "b"
    assert not (run.folder / "b" / "old").exists()
    (run.folder / "a" / "x").unlink()
    assert run() == "ab"
    run.configurations["a"] = "2"
    assert run() == "ab"
    shutil.rmtree(run.folder / "b")
    assert run() == "b"


def test_a_failed_stage_goes_on(run):
    run.configurations["status"] = 2
    with pytest.raises(ValueError, match="stage 'a' ended with exit status 2"):
        run()
    (run.folder / "a" / "half").touch()
    run.configurations["status"] = 0
    assert run() == "ab"
    assert (run.folder / "a" / "half").exists()


def test_the_configuration_is_that_of_the_recipe_and_the_flags(tmp_path):
    one, *_, last = demo_stages.stages(tmp_path)
    assert demo_stages.configuration(one.arguments) == demo_stages.configuration(one.arguments)
    other = (*one.arguments, "--gin.TRAIN_STEPS=7")
    assert demo_stages.configuration(one.arguments) != demo_stages.configuration(other)
    assert demo_stages.configuration(one.arguments) != demo_stages.configuration(last.arguments)


def test_only_a_demos_files_are_deleted(tmp_path, monkeypatch):
    homework = tmp_path / "homework"
    homework.mkdir()
    (homework / "thesis.txt").touch()
    for fresh in (True, False):
        with pytest.raises(ValueError, match=r"homework is not a demo's folder .* --dir"):
            demo.run(argparse.Namespace(dir=str(homework), fresh=fresh))
    assert [path.name for path in homework.iterdir()] == ["thesis.txt"]
    demo_stages.enter(tmp_path / "mine", fresh=True)
    for name in ("tune", "prepared", "notes"):
        (tmp_path / "mine" / name).mkdir()
    (tmp_path / "mine" / "report.html").touch()
    demo_stages.enter(tmp_path / "mine", fresh=True)
    left = {path.name for path in (tmp_path / "mine").iterdir()}
    assert left == {"notes", demo_stages.FINISHED}


def test_sigterm_reaches_the_child_and_is_no_success():
    """A child that saves and ends with status 0 on SIGTERM, as training does."""
    code = (
        "import os, signal, sys, time\n"
        "signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))\n"
        "os.kill(os.getppid(), signal.SIGTERM)\n"
        "time.sleep(60)\n"
    )
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(InterruptedError, match="goes on from here"):
        demo_stages.run_child([sys.executable, "-c", code])
    assert signal.getsignal(signal.SIGTERM) == before


def test_an_interrupted_demo_leaves_no_command_behind(tmp_path):
    """One that does not hear Ctrl-C, as while it compiles."""
    code = (
        "import os, pathlib, signal, sys, time\n"
        "signal.signal(signal.SIGINT, signal.SIG_IGN)\n"
        "pathlib.Path(sys.argv[1]).write_text(str(os.getpid()))\n"
        "os.kill(os.getppid(), signal.SIGINT)\n"
        "time.sleep(60)\n"
    )
    with pytest.raises(KeyboardInterrupt):
        demo_stages.run_child([sys.executable, "-c", code, str(tmp_path / "pid")])
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text()), 0)


def test_a_killed_demo_leaves_no_command_behind():
    """A second Ctrl-C kills, too, before the first has ended the command."""
    code = (
        "import os, signal, sys, time\n"
        "from ul2tune.cli import main\n"
        "def command():\n"
        "    os.kill(os.getppid(), signal.SIGKILL)\n"
        "    time.sleep(20)\n"
        "    print('still here', file=sys.stderr)\n"
        "main.main = command\n"
        "main.script()\n"
    )
    killed = (
        "import sys\n"
        "from ul2tune.cli import demo_stages\n"
        f"demo_stages.run_child([sys.executable, '-c', {code!r}])\n"
    )
    # Reads until nobody has the pipe: the command has it too.
    ended = subprocess.run([sys.executable, "-c", killed], stderr=subprocess.PIPE)
    assert (ended.returncode, ended.stderr) == (-signal.SIGKILL, b"")
