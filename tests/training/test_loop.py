"""The loop over a clock that stands still but for the steps: what it counts, and what it shows."""

from __future__ import annotations

import io
import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from tests import interrupting
from tests.training.processes import lines
from ul2tune import sharding
from ul2tune.sharding import MeshConfig
from ul2tune.status_line import StatusLine
from ul2tune.training import loop as loop_lib
from ul2tune.training import metrics
from ul2tune.training.config import RunConfig
from ul2tune.training.loop import Parts, Position
from ul2tune.training.metrics import Window
from ul2tune.training.throughput import Rate, Stopwatch
from ul2tune.training.writers import MetricsWriter


class Device:
    """Runs one step at a time: dispatching takes nothing, waiting for a step's end one second.

    Step n has loss n, and n of its 10 positions are real.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch):
        self.secs, self.steps = 100.0, 0
        self.sigterm_at_step: int | None = None
        self.sigint_at_step: int | None = None
        self.told = lambda: ""  # what the run has shown so far
        monkeypatch.setattr(time, "perf_counter", lambda: self.secs)
        monkeypatch.setattr(metrics, "fetch", self._wait)

    is_compiled = True

    def compile(self, state: Any, frozen: Any, batch: Any) -> None:
        """Takes until the run has told of it."""
        deadline = time.monotonic() + 60.0
        while "compiling" not in self.told():
            assert time.monotonic() < deadline
            time.sleep(0.001)
        self.is_compiled = True

    def __call__(self, state: Any, frozen: Any, batch: Any) -> tuple[Any, Any]:
        self.steps += 1
        if self.steps == self.sigterm_at_step:
            os.kill(os.getpid(), signal.SIGTERM)
        if self.steps == self.sigint_at_step:
            interrupting.collect()
        return state, {"step": self.steps}

    def _wait(self, dispatched: Any, source_names: Any) -> dict[str, tuple[float, float]]:
        self.secs += 1.0
        step = dispatched["step"]
        return {"loss": (float(step), 1.0), "decoder_fill": (float(step), 10.0)}


class Rows:
    """A feed of `count` batches; drawing one takes no time that counts."""

    source_names = ()

    def __init__(self, count: int):
        self._left = count

    def get_state(self) -> dict[str, Any]:
        return {}

    def is_over(self) -> bool:
        return not self._left

    def __next__(self) -> dict[str, Any]:
        if not self._left:
            raise StopIteration
        self._left -= 1
        return {}


class Checkpoints:
    """Keeps nothing."""

    def check(self) -> None: ...

    def wait(self) -> None: ...


class Run:
    """A run of the loop in `folder`, ended by its last step or before."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch, **settings: Any):
        self.device = Device(monkeypatch)
        self.folder = folder
        self.saved: dict[int, float] = {}  # step -> train_secs
        monkeypatch.setattr(loop_lib, "save", self._save)
        monkeypatch.setattr(loop_lib, "join", lambda *_: {"params": {}})
        values = {
            "model_dir": str(folder),
            "train_steps": 6,
            "checkpoint_period_steps": 1000,
            "log_period_steps": 1000,
            "eval_period_steps": None,
        }
        self.config = RunConfig(**{**values, **settings})
        self.stream = io.StringIO()
        self.device.told = self.stream.getvalue
        self.line = StatusLine(self.stream, at_once=True)
        self.line.quiet_secs = 0.0

    def _save(self, parts: Parts, state: Any, frozen: Any, at: Position) -> None:
        self.saved[at.step] = at.watch.now()
        self.device.secs += 50.0
        at.saved_step = at.step

    def train(self, *, batches: int = 1000) -> Position:
        validate = self._validate if self.config.eval_period_steps else None
        writer = MetricsWriter(self.folder, step=0, tensorboard=False)
        parts = Parts(
            config=self.config,
            model=None,
            mesh=sharding.make_mesh(MeshConfig()),
            batch_size=8,
            feed=Rows(batches),
            train_step=self.device,  # type: ignore
            validate=validate,
            hooks=(),
            checkpoints=Checkpoints(),  # type: ignore
            description={},
            writer=writer,
            line=self.line,
            describe=lambda _: "a table",
        )
        at = Position(
            first_step=0,
            step=0,
            last_step=self.config.last_step(0),
            saved_step=None,
            window=Window(()),
            watch=Stopwatch(),
            rate=Rate(tokens_per_step=10, flops_per_step=None, peak_flops=None),
        )
        loop_lib.loop(parts, {}, {}, at)
        writer.close()
        return at

    def _validate(self, params: Any) -> dict[str, float]:
        self.device.secs += 70.0
        return {"validation/loss": 1.0}


@pytest.mark.parametrize("period", [1, 4, 1000])
def test_a_save_leaves_no_step_uncounted(tmp_path, monkeypatch, period):
    """Nor does it count itself: a step takes one second however many saves there are."""
    run = Run(tmp_path, monkeypatch, checkpoint_period_steps=period, log_period_steps=3)
    at = run.train()
    assert run.saved == {step: float(step) for step in {0, *range(0, 7, period), 6}}
    assert at.watch.now() == 6.0
    timing = lines(tmp_path / "timing.jsonl")
    assert [row["steps_per_sec"] for row in timing] == [1.0, 1.0]


def test_real_tokens_per_second_are_those_of_the_whole_window(tmp_path, monkeypatch):
    """Every step has another fill, and validation falls between two log lines."""
    run = Run(tmp_path, monkeypatch, log_period_steps=3, eval_period_steps=2)
    run.train()
    first, second = lines(tmp_path / "timing.jsonl")
    assert (first["train_secs"], second["train_secs"]) == (3.0, 6.0)
    assert first["nonpadding_tokens_per_sec"] == (1 + 2 + 3) / 3
    assert second["nonpadding_tokens_per_sec"] == (4 + 5 + 6) / 3
    assert second["tokens_per_sec"] == 10.0


def _steps_and_losses(run: Run) -> list[tuple[str, ...]]:
    found = [line.split() for line in run.stream.getvalue().splitlines() if "loss" in line]
    return [(words[1], words[words.index("loss") + 1]) for words in found]


@pytest.mark.parametrize("settings", [{}, {"log_period_steps": 2}, {"checkpoint_period_steps": 1}])
def test_the_live_line_shows_a_step_with_its_own_loss(tmp_path, monkeypatch, settings):
    run = Run(tmp_path, monkeypatch, **settings)
    run.train()
    shown = _steps_and_losses(run)
    assert shown == [(f"{step}/6", f"{step}.000") for step in range(1, 7)]


def test_the_last_line_is_the_last_step_s_however_the_run_ends(tmp_path, monkeypatch):
    for log_period in (1, 1000):
        run = Run(tmp_path / f"data_ends{log_period}", monkeypatch, log_period_steps=log_period)
        run.train(batches=3)
        (line,) = [x for x in run.stream.getvalue().splitlines() if x.startswith("step 3/3")]
        assert "(100 %)  loss 3.000  10 tokens/s" in line
        assert line.endswith("ETA 0:00:00")
    run = Run(tmp_path / "stopped", monkeypatch)
    run.line.quiet_secs = 1e9  # the line is not due when the run stops
    run.device.sigterm_at_step = 3
    run.train()
    assert _steps_and_losses(run) == [("3/6", "3.000")]


def test_where_nobody_watches_lines_are_sparse(tmp_path, monkeypatch):
    run = Run(tmp_path, monkeypatch)
    run.line.quiet_secs = 1e9
    run.train()
    shown = [x.split("  ")[0] for x in run.stream.getvalue().splitlines() if x.startswith("step")]
    assert shown == ["step 0/6 (0 %)", "step 6/6 (100 %)"]


def test_a_step_that_takes_long_to_compile_is_told_of(tmp_path, monkeypatch):
    run = Run(tmp_path, monkeypatch)
    run.device.is_compiled, run.line.quiet_secs = False, 0.01
    run.train()
    first, *more = run.stream.getvalue().splitlines()
    assert first.startswith("compiling the step, ")
    assert "a table" in more


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_an_interrupt_that_a_callback_swallows_comes_before_the_next_step(tmp_path, monkeypatch):
    run = Run(tmp_path, monkeypatch)
    run.device.sigint_at_step = 3
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        run.train()
    assert run.device.steps == 3
    assert signal.getsignal(signal.SIGINT) is before


def test_a_stop_at_the_last_batch_leaves_nothing_for_a_start_without_batches(tmp_path, monkeypatch):
    run = Run(tmp_path, monkeypatch, eval_period_steps=1000)
    run.device.sigterm_at_step = 3
    run.train(batches=3)
    logged, validated = lines(tmp_path / "metrics.jsonl")
    assert (logged["step"], logged["loss"]) == (3, 2.0)  # the mean over all three
    assert validated == {"step": 3, "validation/loss": 1.0}
    assert list(run.saved) == [0, 3]


@pytest.mark.parametrize(
    ("settings", "eta"),
    # A step takes a second. In the first five, training stood still once, for 70 or 50 seconds.
    [
        ({}, "0:00:01"),
        ({"eval_period_steps": 4}, "0:00:15"),
        ({"checkpoint_period_steps": 4}, "0:00:11"),
    ],
)
def test_the_time_left_reckons_with_evaluations_and_saves(tmp_path, monkeypatch, settings, eta):
    run = Run(tmp_path, monkeypatch, **settings)
    run.train()
    (line,) = [x for x in run.stream.getvalue().splitlines() if x.startswith("step 5/6")]
    assert "  10 tokens/s (" in line  # of steps alone
    assert line.endswith(f"ETA {eta}")
