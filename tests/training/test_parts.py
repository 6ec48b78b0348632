"""The parts of the loop by themselves: window, files, live line, drift, signals."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import re
import signal
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

from tests.training import tiny
from ul2tune.checkpoints import description
from ul2tune.optim.optimizer import OptimizerConfig
from ul2tune.sharding import MeshConfig
from ul2tune.training import drift, progress, throughput, writers
from ul2tune.training.loss import LossConfig
from ul2tune.training.metrics import StepRecord, Window
from ul2tune.training.signals import StopSignal


def _record(step: int, loss: float, weight: float) -> StepRecord:
    metrics = {
        "loss": (jnp.float32(loss * weight), jnp.float32(weight)),
        "grad_norm": (jnp.float32(1.0), jnp.float32(1.0)),
        "decoder_fill": (jnp.float32(weight), jnp.float32(10)),
        "loss_by_source": (jnp.array([loss * weight, 0.0]), jnp.array([weight, 0.0])),
    }
    return StepRecord(step=step, metrics=metrics, streams={}, sources=None)


def test_window_is_a_mean_over_tokens_not_over_steps():
    window = Window(("a", "b"))
    window.push(_record(1, loss=2.0, weight=1))
    window.push(_record(2, loss=4.0, weight=3))
    assert window.settle() is None
    assert window.latest["loss"] == 4.0
    # Source b had no token: it has no loss, rather than a loss of 0.
    assert window.take() == {
        "loss": 3.5,
        "grad_norm": 1.0,
        "decoder_fill": 0.2,
        "loss/a": 3.5,
        "tokens_seen": 4,
    }
    window.push(_record(3, loss=1.0, weight=2))
    window.settle()
    assert window.take()["loss"] == 1.0


def test_window_lags_one_step_and_names_the_first_bad_one():
    window = Window(())
    for step, loss in ((1, 1.0), (2, float("nan")), (3, float("nan"))):
        window.push(_record(step, loss, weight=1))
    assert window.settle(keep=2) is None
    assert len(window.pending) == 2
    bad = window.settle()
    assert bad is not None
    assert bad.step == 2


def test_window_survives_json_exactly():
    window = Window(())
    window.push(_record(1, loss=1 / 3, weight=7))
    window.settle()
    again = Window(())
    again.restore(json.loads(json.dumps(window.to_json())))
    for each in (window, again):
        each.push(_record(2, loss=0.1, weight=3))
        each.settle()
    assert window.take() == again.take()


def test_files_are_cut_back_to_the_restored_step(tmp_path):
    writer = writers.MetricsWriter(tmp_path, step=0, tensorboard=False)
    for step in (2, 4, 4, 6):
        writer.metrics(step, {"loss": 0.1 * step})
        writer.timing(step, {"secs": step})
    writer.close()
    path = tmp_path / writers.METRICS
    whole = path.read_text()
    path.write_text(whole + '{"step": 7, "lo')  # the line a kill cut off
    writer = writers.MetricsWriter(tmp_path, step=6, tensorboard=False)
    writer.close()
    assert path.read_text() == whole
    writer = writers.MetricsWriter(tmp_path, step=4, tensorboard=False)
    writer.metrics(6, {"loss": 0.1 * 6})
    writer.close()
    assert path.read_text() == whole
    assert len((tmp_path / writers.TIMING).read_text().splitlines()) == 3


def test_what_is_no_number_is_null(tmp_path):
    """A hook's metric may be NaN, which JSON has not."""
    writer = writers.MetricsWriter(tmp_path, step=0, tensorboard=False)
    writer.metrics(4, {"a": math.nan, "b": -math.inf, "c": 0.5})
    writer.close()
    text = (tmp_path / writers.METRICS).read_text()
    values = json.loads(text, parse_constant=pytest.fail)
    assert values == {"step": 4, "a": None, "b": None, "c": 0.5}


def test_a_full_disk_is_one_sentence(tmp_path):
    (tmp_path / "checkpoints" / "4").mkdir(parents=True)
    writer = writers.MetricsWriter(tmp_path, step=0, tensorboard=False)
    writer._files[writers.METRICS].close()
    writer._files[writers.METRICS] = open("/dev/full", "ab", buffering=0)  # noqa: SIM115
    words = r"metrics.jsonl: No space left on device. Newest complete checkpoint: step 4. Free"
    with pytest.raises(writers.MetricsWriteError, match=words):
        writer.metrics(5, {"loss": 0.1})
    writer.close()  # does not fail once more


def test_a_full_disk_does_not_stop_at_tensorboard(tmp_path):
    """Neither for ever nor in silence."""
    writer = writers.MetricsWriter(tmp_path, step=0, tensorboard=True)
    records = writer._board._events._py_recordio_writer
    records._writer.close()
    records._writer = open("/dev/full", "wb")  # noqa: SIM115
    many = {f"loss/{i}": 0.1 for i in range(1000)}  # more than its buffer holds
    with pytest.raises(writers.MetricsWriteError, match=r"tensorboard: No space left on device"):
        writer.metrics(1, many)
    with pytest.raises(writers.MetricsWriteError, match="tensorboard: No space"):
        writer.close()
    with pytest.raises(OSError, match="No space"):
        records._writer.close()  # for the strict test process


def test_events_can_be_read_back(tmp_path):
    writer = writers.MetricsWriter(tmp_path, step=4, tensorboard=True)
    writer.metrics(5, {"loss": 0.5})
    writer.close()
    (path,) = (tmp_path / writers.TENSORBOARD).iterdir()
    data, events = path.read_bytes(), []
    while data:  # length, its checksum, an event, its checksum
        size = int.from_bytes(data[:8], "little")
        events.append(writers.Event.FromString(data[12 : 12 + size]))
        data = data[16 + size :]
    assert events[1].session_log.status == writers.SessionLog.START
    assert (events[1].step, events[2].step) == (5, 5)
    (value,) = events[2].summary.value
    assert (value.tag, value.simple_value) == ("loss", 0.5)


def test_a_line_of_training():
    rates = {"steps_per_sec": 0.5, "tokens_per_sec": 12345.0, "nonpadding_tokens_per_sec": 11000.0}
    assert progress.line(10, (0, 100), {"loss": 2.5}, {**rates, "mfu": 0.412}) == (
        "step 10/100 (10 %)  loss 2.500  12.3k tokens/s (11k real)  MFU 41.2 %  ETA 0:03:00"
    )


def test_rates_wait_for_the_first_step_to_end():
    """The steps run ahead of the host: before a loss has come back, there is no speed to tell."""
    rates = {"steps_per_sec": 0.5, "tokens_per_sec": 9.0, "nonpadding_tokens_per_sec": 8.0}
    assert progress.line(1, (0, 4), {}, rates) == "step 1/4 (25 %)"
    assert "9 tokens/s (8 real)  ETA 0:00:04" in progress.line(2, (0, 4), {"loss": 1.0}, rates)


def test_a_continued_run_counts_its_own_steps():
    """One of UL2R's eight, not 21 of 28."""
    rates = {"steps_per_sec": 0.5, "tokens_per_sec": 9.0, "nonpadding_tokens_per_sec": 8.0}
    first, last = (progress.line(step, (20, 28), {"loss": 1.0}, rates) for step in (21, 28))
    assert first.startswith("step 21/28 (12 %)")
    assert first.endswith("ETA 0:00:14")
    assert last.startswith("step 28/28 (100 %)")


def test_an_evaluation_is_one_line():
    values = {
        "validation/accuracy": 0.1,
        "validation/loss": 3.41234,
        "validation/loss/docs/R1": 3.0,
    }
    assert progress.evaluated(5, values) == "step 5: validation/loss 3.412"
    hooks = {f"eval/chat/{i}": 12.5 for i in range(8)}
    line = progress.evaluated(5, {**values, **hooks})
    assert line.startswith("step 5: validation/loss 3.412, eval/chat/0 12.5, eval/chat/1 12.5, ")
    assert line.endswith("eval/chat/5 12.5 and 2 more")


def test_rates():
    rate = throughput.Rate(tokens_per_step=100, flops_per_step=1e9, peak_flops=1e12)
    rate.restart(10, 5.0, 400)
    assert rate.measure(10, 6.0, 400) == {}
    assert rate.measure(30, 7.0, 1400) == pytest.approx(
        {
            "steps_per_sec": 10.0,
            "tokens_per_sec": 1000.0,
            "nonpadding_tokens_per_sec": 500.0,
            "model_flops_per_sec": 1e10,
            "mfu": 0.01,
        }
    )


def test_stopwatch_counts_only_while_it_runs():
    watch = throughput.Stopwatch(3.0)
    assert watch.now() == 3.0
    watch.start()
    watch.start()
    assert watch.now() > 3.0
    watch.stop()
    assert watch.now() == watch.secs == watch.now()


def test_drift_names_every_difference():
    def config(**values: Any) -> dict[str, Any]:
        return description.describe(
            {"mesh": MeshConfig(**values), "rates": (1, 2.5), "f": np.square}
        )

    saved = json.loads(json.dumps(config()))
    assert saved["mesh"]["class"] == "MeshConfig"
    assert drift.differences(saved, config()) == []
    assert drift.differences(saved, config(data=2)) == ["mesh/data: 1 -> 2"]
    assert drift.differences(saved, {**config(), "rates": [1]}) == ["rates/1: 2.5 -> (absent)"]
    with pytest.raises(ValueError, match=r"(?s)checkpoint 5 was made.*mesh/data: 1 -> 2"):
        drift.check(saved, config(data=2), allow=False, where="checkpoint 5")
    drift.check(saved, config(data=2), allow=True, where="checkpoint 5")


def test_a_task_that_only_one_mixture_has_is_one_difference():
    """Not a line for every setting of every task."""

    def config(*tasks: str) -> dict[str, Any]:
        return {"prepared": {name: {"fingerprint": name, "eos": [1, 2]} for name in tasks}}

    many = [f"new{i:03}" for i in range(300)]
    saved, now = config("kept", "gone"), config("kept", *many)
    assert drift.differences(saved, config("kept")) == ["prepared/gone: (present) -> (absent)"]
    assert len(drift.differences(saved, now)) == 301
    assert drift.differences({}, config("one")) == ["prepared/one: (absent) -> (present)"]
    with pytest.raises(ValueError, match=r"prepared/new018: .*\n  and 281 more\nUse ") as caught:
        drift.check(saved, now, allow=False, where="checkpoint 5")
    assert "prepared data of 'new003' and 296 more the saved position" in str(caught.value)


@pytest.mark.parametrize(
    ("change", "note"),
    [
        ("optimizer/schedule/total_steps: 60 -> 80", r"follow TRAIN_STEPS .* to end at 80,"),
        ("data/batch_size: 8 -> 16", r"With other FeedConfig\.batch_size .* from the beginning"),
        ("prepared/t/fingerprint: a -> b", r"With other prepared data of 't' the saved position"),
        ("data/feature_lengths/inputs: 8 -> 16", None),
        ("loss/z_loss: 0.1 -> 0.2", None),
    ],
)
def test_a_refused_change_says_what_allowing_it_does(change, note):
    def config(value: str) -> dict[str, Any]:
        nested: Any = value
        for name in reversed(change.partition(":")[0].split("/")):
            nested = {name: nested}
        return nested

    saved, now = change.partition(": ")[2].split(" -> ")
    with pytest.raises(ValueError, match=change) as caught:
        drift.check(config(saved), config(now), allow=False, where="checkpoint 5")
    _, _, notes = str(caught.value).partition("allow_config_change = True.")
    assert bool(notes) == (note is not None)
    assert note is None or re.search(note, notes)


def test_a_field_younger_than_the_checkpoint_differs_only_off_its_default():
    optimizer = OptimizerConfig(name="adafactor", schedule=tiny.SCHEDULE)
    current = description.describe({"model": tiny.MODEL, "meshes": [MeshConfig()], "o": optimizer})
    saved = json.loads(json.dumps(current))
    for name in set(saved["o"]) - {"class", "name", "schedule"}:
        del saved["o"][name]
    del saved["model"]["per_layer_relative_bias"], saved["meshes"][0]["fsdp"]
    assert drift.differences(saved, current) == []
    changed = dataclasses.replace(tiny.MODEL, per_layer_relative_bias=True)
    current = description.describe(
        {"model": changed, "meshes": [MeshConfig(fsdp=2)], "o": optimizer}
    )
    assert drift.differences(saved, current) == [
        "meshes/0/fsdp: (absent) -> 2",
        "model/per_layer_relative_bias: (absent) -> True",
    ]
    # A field that is no longer there is another matter.
    assert drift.differences(json.loads(json.dumps(current)), saved) != []


def test_how_a_model_is_computed_may_change_in_the_middle_of_a_run():
    def config(chunk_tokens: int = 4, **values: Any) -> dict[str, Any]:
        model, loss = (
            dataclasses.replace(tiny.MODEL, **values),
            LossConfig(chunk_tokens=chunk_tokens),
        )
        return description.describe({"model": model, "loss": loss})

    how = {
        "remat": "full",
        "scan_layers": not tiny.MODEL.scan_layers,
        "attention": "chunked",
        "attention_chunk_tokens": 8,
    }
    assert drift.differences(config(), config(chunk_tokens=8, **how)) == []
    assert drift.differences(config(), config(d_ff=8)) == ["model/d_ff: 32 -> 8"]


def test_sigterm_is_heard_inside_and_given_back_after():
    before = signal.getsignal(signal.SIGTERM)
    with StopSignal() as stop:
        assert not stop.requested(0)
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.requested(1)
    assert signal.getsignal(signal.SIGTERM) is before
