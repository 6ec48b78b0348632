"""`train` in this process: where it starts, what it writes, how it refuses and stops."""

from __future__ import annotations

import dataclasses
import json
import logging
import shutil
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from tests.feed import prepared
from tests.training import tiny
from tests.training.processes import lines, newest
from ul2tune import tree
from ul2tune.checkpoints import initialize, layout
from ul2tune.checkpoints.restore import CorruptCheckpointError
from ul2tune.data import vocab
from ul2tune.training import run as run_lib
from ul2tune.training.config import RunConfig
from ul2tune.training.metrics import NonFiniteLossError
from ul2tune.types import HookContext

pytestmark = pytest.mark.usefixtures("one_program")


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("data")
    tiny.write_data(path)
    return path


@dataclasses.dataclass
class Witness:
    """A hook that keeps what it sees."""

    period_steps: int = 4
    steps: list[int] = dataclasses.field(default_factory=list)
    context: HookContext | None = None

    def __call__(self, context: HookContext) -> dict[str, float]:
        self.steps.append(context.step)
        self.context = context
        return {"witness/step": float(context.step)}


@pytest.fixture(scope="module")
def finished(tmp_path_factory, data_dir) -> Any:
    """A run of six steps: (folder, parameters, hook, stderr lines)."""
    path = tmp_path_factory.mktemp("finished")
    hook = Witness()
    params = run_lib.train(**tiny.arguments(path, data_dir), hooks=[hook])
    return path, jax.device_get(params), hook


@pytest.fixture
def copy(finished, tmp_path) -> Path:
    """The finished run, to be spoilt."""
    path = tmp_path / "run"
    shutil.copytree(finished[0], path)
    return path


def _equal(a: Any, b: Any) -> bool:
    flat_a, flat_b = tree.flatten(jax.device_get(a)), tree.flatten(jax.device_get(b))
    return flat_a.keys() == flat_b.keys() and all(
        np.array_equal(flat_a[path], flat_b[path]) for path in flat_a
    )


def test_metrics_file(finished):
    path, _, hook = finished
    rows = lines(path / "metrics.jsonl")
    assert [row["step"] for row in rows] == [3, 4, 5, 6, 6]
    logged = [row for row in rows if "loss" in row]
    for name in ("grad_norm", "param_norm", "update_norm", "learning_rate", "encoder_fill"):
        assert all(row[name] > 0 for row in logged), name
    assert {"loss/pairs", "loss/text/R", "loss/text/S"} <= logged[-1].keys()
    assert logged[0]["tokens_seen"] < logged[1]["tokens_seen"]
    assert [row["step"] for row in rows if "validation/loss" in row] == [5, 6]
    assert [row["step"] for row in rows if "witness/step" in row] == hook.steps == [4, 6]
    timing = lines(path / "timing.jsonl")
    assert {"steps_per_sec", "tokens_per_sec", "nonpadding_tokens_per_sec", "train_secs"} <= (
        timing[-1].keys()
    )
    assert list((path / "tensorboard").iterdir())


def test_hooks_get_everything(finished):
    path, params, hook = finished
    assert hook.context.step == 6
    assert hook.context.model == tiny.RUN_MODEL
    assert hook.context.model_dir == str(path)
    assert hook.context.mesh.size == 8
    assert _equal(hook.context.params, params)


def test_starting_a_finished_run_changes_nothing(finished, copy, data_dir):
    before = (copy / "metrics.jsonl").read_bytes()
    params = run_lib.train(**tiny.arguments(copy, data_dir))
    assert _equal(params, finished[1])
    assert (copy / "metrics.jsonl").read_bytes() == before


def test_a_relative_folder_resumes(copy, data_dir, monkeypatch):
    monkeypatch.chdir(copy.parent)
    run_lib.train(**tiny.arguments(copy.name, data_dir, train_steps=7))
    assert layout.steps(copy / "checkpoints")[-1] == 7
    assert not list((copy / "checkpoints").glob("*.bad*"))


def test_priority_1_the_run_itself_2_init_3_fresh(finished, copy, data_dir, tmp_path, capsys):
    def no_init(abstract: Any) -> Any:
        raise AssertionError("a run with a checkpoint of its own must not ask for initial ones")

    run_lib.train(**tiny.arguments(copy, data_dir), init=no_init)
    # A second stage starts from exactly the first one's parameters.
    init = initialize.from_checkpoint(str(copy), keep_step=False)
    run_lib.train(**tiny.arguments(tmp_path / "second", data_dir, train_steps=1), init=init)
    assert layout.steps(tmp_path / "second/checkpoints") == [0, 1]
    assert _saved_params(tmp_path / "second", 0) == _saved_params(copy, 6)
    # As in T5X, TRAIN_STEPS includes the six earlier steps, TRAIN_STEPS_RELATIVE does not.
    kept = initialize.from_checkpoint(str(copy))
    for name, steps in [("third", {"train_steps": 7}), ("fourth", {"train_steps_relative": 1})]:
        run_lib.train(**tiny.arguments(tmp_path / name, data_dir, **steps), init=kept)
        assert layout.steps(tmp_path / name / "checkpoints") == [6, 7]
        assert "step 6/7 (0 %)" in capsys.readouterr().err  # of its own steps
        assert _saved_params(tmp_path / name, 6) == _saved_params(copy, 6)
        assert _saved(tmp_path / name, 6, "opt_state/") != _saved(copy, 6, "opt_state/")
    # The optimiser's state comes along if asked for.
    whole = initialize.from_checkpoint(str(copy), keep_optimizer=True)
    run_lib.train(**tiny.arguments(tmp_path / "fifth", data_dir, train_steps=7), init=whole)
    assert _saved(tmp_path / "fifth", 6, "opt_state/") == _saved(copy, 6, "opt_state/")
    # Without any of them, parameters are drawn.
    assert _saved_params(copy, 0) != _saved_params(tmp_path / "second", 0)


def test_initial_parameters_of_another_vocabulary_are_refused(copy, tmp_path):
    """From the data's manifests into the checkpoint, and back."""
    task = prepared.Task(
        name="pairs", examples=prepared.pairs(60), vocabulary=vocab.load("bytes"), num_shards=1
    )
    for split in ("train", "validation"):
        prepared.write(tmp_path / "bytes", "mix", [task], split=split)
    init = initialize.from_checkpoint(str(copy), keep_step=False)
    with pytest.raises(ValueError, match=r"6 was trained with another vocabulary .*pass_through"):
        run_lib.train(**tiny.arguments(tmp_path / "second", tmp_path / "bytes"), init=init)
    assert not layout.steps(tmp_path / "second/checkpoints")
    allowed = {"allow_other_vocabulary": True, "train_steps": 1}
    run_lib.train(**tiny.arguments(tmp_path / "second", tmp_path / "bytes", **allowed), init=init)
    assert layout.steps(tmp_path / "second/checkpoints") == [0, 1]


def _saved_params(path: Path, step: int) -> dict[str, Any]:
    """Fingerprints of the parameters of one checkpoint."""
    return _saved(path, step, "params/")


def _saved(path: Path, step: int, prefix: str) -> dict[str, Any]:
    leaves = layout.read_meta(path / "checkpoints" / str(step))["leaves"]
    return {name: leaf for name, leaf in leaves.items() if name.startswith(prefix)}


def test_a_damaged_newest_checkpoint_is_replaced_by_the_one_before(
    finished, copy, data_dir, caplog
):
    victim = max((copy / "checkpoints/6/state/ocdbt.process_0/d").iterdir(), key=_size)
    data = bytearray(victim.read_bytes())
    for at in range(len(data) // 8, len(data), len(data) // 8):
        data[at] ^= 4
    victim.write_bytes(data)
    with caplog.at_level(logging.WARNING, "ul2tune"):
        params = run_lib.train(**tiny.arguments(copy, data_dir))
    assert "Checkpoint 6 is damaged" in caplog.text
    assert _equal(params, finished[1])
    # The hook's lines of the first run are gone with the steps after 4, the rest is as before.
    rows = [row for row in lines(finished[0] / "metrics.jsonl") if row["step"] <= 4]
    assert lines(copy / "metrics.jsonl")[:2] == rows
    for step in (0, 4, 6):
        shutil.rmtree(copy / "checkpoints" / str(step) / "meta")
    with pytest.raises(CorruptCheckpointError, match="None of the checkpoints"):
        run_lib.train(**tiny.arguments(copy, data_dir))


def _size(path: Path) -> int:
    return path.stat().st_size


def test_another_configuration_is_refused_with_the_difference(copy, data_dir, caplog):
    changed = tiny.arguments(copy, data_dir, data={"seed": 5}, train_steps=7)
    changed["loss"] = dataclasses.replace(changed["loss"], z_loss=0.5)
    with pytest.raises(ValueError, match=r"(?s)data/seed: 0 -> 5.*loss/z_loss: 0.0001 -> 0.5"):
        run_lib.train(**changed)
    # What only says where, how long or how fast may change; other prepared data may not.
    other = copy.parent / "other"
    shutil.copytree(data_dir, other)
    for split in ("train", "validation"):
        path = other / "pairs" / split / "manifest.json"
        manifest = json.loads(path.read_text())
        path.write_text(json.dumps({**manifest, "fingerprint": "changed"}))
    harmless = tiny.arguments(copy, other, train_steps=7, checkpoint_period_steps=100)
    with pytest.raises(ValueError, match=r"prepared/pairs/fingerprint: \w+ -> changed"):
        run_lib.train(**harmless)
    allowed = dataclasses.replace(changed["run"], allow_config_change=True)
    with caplog.at_level(logging.WARNING, "ul2tune"):
        run_lib.train(**{**changed, "run": allowed})
    assert "loss/z_loss: 0.0001 -> 0.5" in caplog.text
    assert "its streams start from the beginning" in caplog.text
    assert newest(copy)[0] == 7


def test_nan_stops_with_the_step_and_the_batch(tmp_path, data_dir):
    """A learning rate that blows up: the parameters overflow within the first steps."""
    bad = {"name": "adamw", "schedule": dataclasses.replace(tiny.SCHEDULE, learning_rate=3e37)}
    arguments = tiny.arguments(tmp_path, data_dir, optimizer=bad, checkpoint_period_steps=1)
    with pytest.raises(NonFiniteLossError, match=r"Step \d+ is not finite") as caught:
        run_lib.train(**arguments)
    dumps = list(tmp_path.glob("nonfinite-step-*.json"))
    assert len(dumps) == 1
    assert str(dumps[0]) in str(caught.value)
    dump = json.loads(dumps[0].read_text())
    step = dump["step"]
    assert f"Step {step} " in str(caught.value)
    assert dump["rows"] == list(range(tiny.BATCH))
    assert dump["streams_before_the_batch"]["batch"] == [step - 1] * tiny.BATCH
    assert sum(dump["target_tokens_by_source_of_process_0"].values()) == tiny.BATCH * 48
    # The checkpoint before it is sound and finite.
    saved, _ = newest(tmp_path)
    assert saved < step
    spec = run_lib.base.abstract_params(tiny.RUN_MODEL)
    device = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    abstract = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=device), spec)
    params = initialize.load_params(tmp_path, abstract)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(jax.device_get(params)))


def test_the_data_may_end_first(tmp_path, data_dir, caplog):
    """One epoch of 6 documents each ends before TRAIN_STEPS; the last step is still observed."""
    data = {"num_epochs": 1, "max_examples": 6}
    hook = Witness(period_steps=1000)
    arguments = tiny.arguments(tmp_path, data_dir, data=data, train_steps=1000)
    with caplog.at_level(logging.WARNING, "ul2tune"):
        run_lib.train(**arguments, hooks=[hook])
    step, _ = newest(tmp_path)
    assert f"The data ended after step {step} of 1000" in caplog.text
    assert hook.steps == [step]
    rows = lines(tmp_path / "metrics.jsonl")
    assert [row["step"] for row in rows if "validation/loss" in row][-1] == step
    assert [row["step"] for row in rows if "loss" in row][-1] == step
    before = (tmp_path / "metrics.jsonl").read_bytes()
    run_lib.train(**arguments, hooks=[hook])
    assert (tmp_path / "metrics.jsonl").read_bytes() == before


def test_steps_that_an_initial_checkpoint_has_behind_it_are_refused(copy, data_dir, tmp_path):
    init = initialize.from_checkpoint(str(copy))
    with pytest.raises(ValueError, match=r"TRAIN_STEPS = 6 is over .* it is at step 6"):
        run_lib.train(**tiny.arguments(tmp_path / "next", data_dir, train_steps=6), init=init)
    assert layout.steps(tmp_path / "next/checkpoints") == []


def test_a_folder_that_cannot_be_written_is_named(tmp_path, data_dir):
    (tmp_path / "file").touch()
    with pytest.raises(
        ValueError, match=r"MODEL_DIR = '.*file' cannot be written to \(File exists"
    ):
        run_lib.train(**tiny.arguments(tmp_path / "file", data_dir))


def test_a_folder_has_one_trainer(copy, data_dir):
    with run_lib.lock.exclusive(copy), pytest.raises(ValueError, match="Another process"):
        run_lib.train(**tiny.arguments(copy, data_dir))


def test_batches_that_do_not_divide_are_refused(tmp_path, data_dir):
    with pytest.raises(ValueError, match="BATCH_SIZE = 12 is not divisible by data x fsdp = 8"):
        run_lib.train(**tiny.arguments(tmp_path, data_dir, data={"batch_size": 12}))
    with pytest.raises(ValueError, match="does not divide into 2 microbatches"):
        run_lib.train(**tiny.arguments(tmp_path, data_dir, num_microbatches=2))


def test_a_missing_validation_split_is_found_at_the_start(tmp_path, data_dir):
    with pytest.raises(ValueError, match=r"'test' split of mix is not prepared"):
        run_lib.train(**tiny.arguments(tmp_path, data_dir, eval_split="test"))


def _checkpoint_steps(path: Path) -> list[int]:
    return layout.steps(path / "checkpoints")


# Every field of RunConfig, another value, and what must then be different in the finished run.
LIVE = {
    "model_dir": None,  # the fixture's run and every other are in different folders
    "train_steps": None,  # test_priority…
    "train_steps_relative": None,  # test_priority…
    "allow_config_change": None,  # test_another_configuration…
    "allow_other_vocabulary": None,  # test_initial_parameters_of_another_vocabulary…
    "seed": (1, lambda path: lines(path / "metrics.jsonl")[0]["loss"]),
    "num_microbatches": None,  # test_batches_that_do_not_divide…
    "ema_decay": None,  # test_ema.py
    "eval_ema": None,  # test_ema.py
    "checkpoint_period_steps": (5, _checkpoint_steps),
    "keep_checkpoints": (1, _checkpoint_steps),
    "keep_checkpoint_period_steps": None,  # test_retention
    "log_period_steps": (2, lambda path: [row["step"] for row in lines(path / "timing.jsonl")]),
    "eval_period_steps": (None, lambda path: len(lines(path / "metrics.jsonl"))),
    "eval_split": ("train", lambda path: lines(path / "metrics.jsonl")[2]),
    "eval_steps": (2, lambda path: lines(path / "metrics.jsonl")[2]),
    "tensorboard": (False, lambda path: (path / "tensorboard").exists()),
    "compilation_cache_dir": None,  # test_compilation_cache
}


def test_every_field_is_in_the_table():
    assert {field.name for field in dataclasses.fields(RunConfig)} == LIVE.keys()


# Fields whose views do not meet share a run.
TOGETHER = (
    ("seed", "checkpoint_period_steps", "tensorboard", "eval_period_steps"),
    ("keep_checkpoints", "log_period_steps"),
    ("eval_split",),
    ("eval_steps",),
)


def test_every_live_field_has_its_run():
    assert sorted(sum(TOGETHER, ())) == sorted(n for n, case in LIVE.items() if case is not None)


@pytest.mark.slow
@pytest.mark.parametrize("names", TOGETHER, ids=" ".join)
def test_every_field_is_live(names, finished, tmp_path, data_dir):
    values = {name: LIVE[name][0] for name in names}
    run_lib.train(**tiny.arguments(tmp_path, data_dir, **values), hooks=[Witness()])
    for name in names:
        view = LIVE[name][1]
        assert view(tmp_path) != view(finished[0]), name


@pytest.mark.slow
def test_retention(tmp_path, data_dir):
    keep = {"keep_checkpoints": 1, "keep_checkpoint_period_steps": 3}
    arguments = tiny.arguments(
        tmp_path, data_dir, checkpoint_period_steps=1, eval_period_steps=None, **keep
    )
    run_lib.train(**arguments)
    assert _checkpoint_steps(tmp_path) == [0, 3, 6]


def test_compilation_cache(tmp_path, data_dir, monkeypatch):
    old = jax.config.jax_compilation_cache_dir
    cache = str(tmp_path / "cache")
    arguments = tiny.arguments(
        tmp_path / "run", data_dir, compilation_cache_dir=cache, data={"batch_size": 12}
    )
    try:
        with pytest.raises(ValueError, match="BATCH_SIZE"):
            run_lib.train(**arguments)
        assert jax.config.jax_compilation_cache_dir == cache
    finally:
        jax.config.update("jax_compilation_cache_dir", old)


def test_what_a_person_sees(finished, copy, data_dir, capsys, tmp_path):
    """The table once, the fill once, lines while it trains."""
    table = ((r"decoder/.*", 1.0), (".*", "freeze"))
    arguments = tiny.arguments(tmp_path, data_dir, optimizer={"groups": table})
    init = initialize.from_checkpoint(str(copy), keep_step=False)
    run_lib.train(**arguments, init=init)
    text = capsys.readouterr().err
    for words in (
        "data 1 x fsdp 8 x tensor 1: 8 cpu devices",
        "8 rows of 64+48 = 896 tokens per step",
        f"starts from  step 6 of {copy}, counting from 0\n",
        "0 -> 6",
        "fill (positions that are not padding): decoder",
        "step 6/6 (100 %)  loss ",
        "step 6: validation/loss ",
    ):
        assert text.count(words) == 1, words
    assert "tokens/s (" in text
    assert "ETA 0:00:00" in text
    frozen = tree.num_elements(tree.partition(finished[1], _decoder_mask(finished[1]))[1])
    assert f" trainable, {frozen:,} frozen" in text
    for path, leaf in _saved_params(tmp_path, 6).items():
        moved = leaf != _saved_params(copy, 6)[path]
        assert moved == path.startswith("params/decoder/"), path


def _decoder_mask(params: Any) -> Any:
    return tree.map_with_path(lambda path, _: path.startswith("decoder/"), params)
