"""The demo's report from what its stages leave behind, and the bookkeeping between stages."""

from __future__ import annotations

import json
import signal
import sys
from pathlib import Path

import pytest

from ul2tune.cli import demo, demo_report, report_data


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
            line = {"task": "t", "id": "0", "prompt": "1 < 2 & 3?", "references": ["yes"]}
            write_lines(folder / "predictions.jsonl", [{**line, "prediction": when}])
            table = {"overall": {"rouge_l": score}, "tasks": {"t": {"rouge_l": score}}}
            (folder / "metrics.json").write_text(json.dumps(table))
    stages = {stage.name: {"arguments": [], "secs": 1.5} for stage in demo.stages(tmp_path)}
    (tmp_path / demo.FINISHED).write_text(json.dumps(stages))
    return tmp_path


def test_report_holds_numbers_curves_and_samples(finished):
    path = demo_report.write(report_data.collect(finished), finished)
    page = path.read_text(encoding="utf-8")
    assert '<td class="number">10.0</td><td class="number">60.0</td>' in page
    assert "4.000 → 2.000" in page
    assert "1 &lt; 2 &amp; 3?" in page
    images = ["loss.png", *(f"loss_{name}_by_source.png" for name in report_data.TRAINING)]
    for image in [*images, "metrics.png"]:
        assert f'src="{image}"' in page
        assert (finished / image).read_bytes().startswith(b"\x89PNG")


def test_numbers_in_words(finished):
    words = report_data.describe(report_data.collect(finished))
    assert "4.000 ->  2.000" in words
    assert "900" in words  # the median: the first rate holds the compilation
    assert "10.0 before tuning     60.0 after" in words


def test_stages_follow_one_checkpoint(tmp_path):
    by_name = {stage.name: " ".join(stage.arguments) for stage in demo.stages(tmp_path)}
    assert f"INITIAL_CHECKPOINT_PATH='{tmp_path / 'pretrain'}'" in by_name["ul2r"]
    assert f"INITIAL_CHECKPOINT_PATH='{tmp_path / 'ul2r'}'" in by_name["tune"]
    assert f"CHECKPOINT_PATH='{tmp_path / 'ul2r'}'" in by_name["before_held_out"]
    assert f"CHECKPOINT_PATH='{tmp_path / 'tune'}'" in by_name["after_held_out"]
    assert "'" not in demo.shell(demo.stages(tmp_path)[0].arguments)


def test_a_finished_stage_is_not_run_again(tmp_path, capfd):
    stage = demo.Stage(name="s", title="say something", arguments=("--help",))
    demo.run_stage(stage, "[1/1]", tmp_path)
    assert "usage: ul2tune" in capfd.readouterr().out
    demo.run_stage(stage, "[1/1]", tmp_path)
    assert capfd.readouterr().out == "[1/1] say something: finished before\n"
    other = demo.Stage(name="s", title="say something", arguments=("--hlep",))
    with pytest.raises(ValueError, match="stage 's' ended with exit status 2"):
        demo.run_stage(other, "[1/1]", tmp_path)
    assert json.loads((tmp_path / demo.FINISHED).read_text())["s"]["arguments"] == ["--help"]


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
        demo.run_child([sys.executable, "-c", code])
    assert signal.getsignal(signal.SIGTERM) == before
