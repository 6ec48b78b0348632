"""The step: the same on every mesh, exact under accumulation, compiled once."""

import dataclasses
import functools
import inspect
from contextlib import contextmanager

import jax
import numpy as np
import pytest

from tests.models import examples
from tests.training import tiny
from ul2tune import tree
from ul2tune.models import base
from ul2tune.optim import optimizer as optimizer_lib
from ul2tune.optim.optimizer import OptimizerConfig
from ul2tune.optim.schedules import ScheduleConfig
from ul2tune.sharding import MeshConfig
from ul2tune.training import step
from ul2tune.training.loss import LossConfig
from ul2tune.training.step import BY_SOURCE

# gin/mesh/*.gin, on eight devices (tests/test_sharding.py reads the files).
pytestmark = pytest.mark.usefixtures("one_program")

PRESETS = {
    "fsdp": MeshConfig(fsdp=-1),
    "tensor": MeshConfig(fsdp=1, tensor=-1),
    "fsdp_tensor": MeshConfig(fsdp=-1, tensor=2),
    "data_fsdp_tensor": MeshConfig(data=2, fsdp=-1, tensor=2),
}
STEPS = 3
# Heads that divide by eight, for the tensor preset.
MODEL = {"model": dataclasses.replace(tiny.MODEL, num_heads=8, d_kv=4)}


def _mean(pair) -> float:
    return float(pair[0] / pair[1])


@pytest.fixture(scope="module")
def reference():
    """Losses and parameters of one device."""
    trainer = tiny.Trainer(*tiny.one_device(), **MODEL)
    metrics = [trainer.run(tiny.batch(i)) for i in range(STEPS)]
    return metrics, jax.device_get(trainer.state["params"])


@pytest.mark.parametrize("preset", PRESETS)
def test_every_mesh_gives_the_same_losses(preset, reference):
    """With dropout: the masks too are those of one device."""
    metrics, params = reference
    trainer = tiny.Trainer(PRESETS[preset], **MODEL)
    for i in range(STEPS):
        found = trainer.run(tiny.batch(i))
        assert found.keys() == metrics[i].keys()
        for name, pair in metrics[i].items():
            np.testing.assert_allclose(found[name], pair, rtol=1e-5, atol=1e-6, err_msg=name)
    for path, leaf in tree.flatten(trainer.state["params"]).items():
        expected = tree.flatten(params)[path]
        np.testing.assert_allclose(np.asarray(leaf), expected, atol=1e-4, err_msg=path)
        assert leaf.sharding.is_equivalent_to(
            tree.flatten(trainer.spec.state["params"])[path].sharding, leaf.ndim
        )


NO_DROPOUT = dataclasses.replace(tiny.MODEL, dropout_rate=0.0)


@pytest.fixture(scope="module")
def whole_batch():
    """One step without microbatches or dropout."""
    trainer = tiny.Trainer(*tiny.one_device(), fresh=True, model=NO_DROPOUT)
    return trainer.run(tiny.batch()), jax.device_get(trainer.state["params"])


def test_accumulation_is_exact_to_the_token(whole_batch):
    """Rows have 1 to 6 real tokens; a mean of the parts' means would differ in the second digit.

    On a mesh every part is spread over all devices.
    """
    mesh = MeshConfig(fsdp=4, tensor=2)
    trainer = tiny.Trainer(mesh, fresh=True, model=NO_DROPOUT, num_microbatches=2)
    found = trainer.run(tiny.batch())
    metrics, params = whole_batch
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-5), found, metrics)
    found = jax.device_get(trainer.state["params"])
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), found, params)


def test_accumulation_of_means_per_sequence():
    """The weights of a row do not depend on which part it is in, nor does the normalizer."""
    loss = LossConfig(normalizer="average_per_sequence")
    found = []
    for parts in (1, 4):
        kwargs = {"model": NO_DROPOUT, "loss": loss, "num_microbatches": parts}
        trainer = tiny.Trainer(*tiny.one_device(), **kwargs)
        found.append((trainer.run(tiny.batch()), jax.device_get(trainer.state["params"])))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-5, atol=1e-5), *found)


def test_metrics_are_sums_with_their_weights(whole_batch):
    metrics, _ = whole_batch
    batch = tiny.batch()
    weights, sources = batch["decoder_loss_weights"], batch["decoder_source_ids"]
    by_source, weight = metrics[BY_SOURCE]
    np.testing.assert_array_equal(
        weight, [weights[sources == 1].sum(), weights[sources == 2].sum()]
    )
    np.testing.assert_allclose(by_source.sum(), metrics["loss"][0], rtol=1e-6)
    assert metrics["loss"][1] == weights.sum()
    assert metrics["decoder_fill"] == (weights.sum(), weights.size)
    assert metrics["encoder_fill"][0] == (batch["encoder_input_tokens"] > 0).sum()


def test_dropout_changes_from_step_to_step():
    """The same parameters and batch at other steps meet other masks."""
    losses = []
    for step_number in (0, 0, 1, 2):
        trainer = tiny.Trainer(*tiny.one_device(), **MODEL)
        sharding = trainer.state["step"].sharding
        trainer.state["step"] = jax.device_put(np.int32(step_number), sharding)
        losses.append(float(trainer.run(tiny.batch())["loss"][0]))
    assert losses[0] == losses[1]
    assert len(set(losses)) == 3
    np.testing.assert_allclose(losses, losses[0], rtol=0.1)


def test_frozen_parameters_have_no_gradient_and_do_not_move(whole_batch):
    """Only the decoder trains: the others keep every bit."""
    table = ((r"decoder/.*", 1.0), (".*", "freeze"))
    trainer = tiny.Trainer(
        *tiny.one_device(), fresh=True, model=NO_DROPOUT, optimizer=tiny.optimizer(groups=table)
    )
    before = jax.device_get(trainer.frozen)
    assert set(before) == {"token_embedding", "encoder", "head"}
    assert set(trainer.state["params"]) == {"decoder"}
    first = jax.device_get(trainer.state["params"])
    metrics = trainer.run(tiny.batch())
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(trainer.frozen), before)
    whole, params = whole_batch
    assert 0 < _mean(metrics["grad_norm"]) < _mean(whole["grad_norm"])
    # Adafactor's updates are per parameter: the decoder moves as in full training.
    for path, leaf in tree.flatten(trainer.state["params"]).items():
        expected = tree.flatten(params["decoder"])[path.removeprefix("decoder/")]
        np.testing.assert_allclose(np.asarray(leaf), expected, atol=1e-6, err_msg=path)
        assert np.abs(np.asarray(leaf) - tree.flatten(first)[path]).max() > 0, path


@contextmanager
def compilations():
    """Counts what XLA compiles, or loads from the persistent cache, inside the block."""
    events = []

    def listen(name: str, secs: float, **kwargs: object) -> None:
        if name == "/jax/core/compile/backend_compile_duration":
            events.append(kwargs)

    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        yield events
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)


def test_the_step_compiles_exactly_once_and_donates_its_state():
    trainer = tiny.Trainer(PRESETS["fsdp_tensor"], **MODEL)
    old = jax.tree.leaves(trainer.state)
    trainer.run(tiny.batch(0))
    assert all(leaf.is_deleted() for leaf in old)
    with compilations() as events:
        for i in range(1, 4):
            trainer.run(tiny.batch(i))
    assert not events
    with pytest.raises(TypeError, match="was compiled"):
        trainer.run(tiny.batch(0, size=16))
    with compilations() as events:
        jax.jit(lambda x: x * 1.234)(np.ones(7))
    assert events, "the listener hears nothing: the assertions above prove nothing"


# (sum, weight) after one step of the tiny model on `tiny.batch()`, without dropout.
GOLDEN = {
    "accuracy": (0.0, 24.0),
    "decoder_fill": (24.0, 48.0),
    "encoder_fill": (48.0, 96.0),
    "grad_norm": (1.94743, 1.0),
    "learning_rate": (0.02, 1.0),
    "loss": (100.73223, 24.0),
    "loss_by_source": (100.73223, 24.0),
    "param_norm": (39.51043, 1.0),
    "update_norm": (0.6938, 1.0),
    "z_loss": (0.04936, 24.0),
}


def test_golden_one_step_metrics(whole_batch):
    metrics, _ = whole_batch
    found = {
        name: (round(float(np.sum(pair[0])), 5), float(np.sum(pair[1])))
        for name, pair in metrics.items()
    }
    same = found.keys() == GOLDEN.keys() and all(
        found[name] == pytest.approx(pair, rel=2e-5) for name, pair in GOLDEN.items()
    )
    assert same, (
        "The first step computes something else than before. That is right only if initialisation, "
        "model, loss or optimiser were changed on purpose: then say so in the CHANGELOG and put "
        f"these numbers here: {found}"
    )


def test_train_step_is_short():
    assert len(inspect.getsource(step.train_step).splitlines()) <= 45


def test_the_rate_logged_is_that_of_the_update():
    """Steps and updates of an optimiser that was taken over from another run need not agree."""
    schedule = ScheduleConfig(name="linear", learning_rate=1.0, total_steps=10)
    optimizer = optimizer_lib.make(
        OptimizerConfig(name="lion", schedule=schedule),
        base.abstract_params(tiny.MODEL),
        base.param_axes(tiny.MODEL),
    )
    step_config = tiny.step_config(optimizer=optimizer)
    update = jax.jit(
        functools.partial(step.train_step, config=step_config), compiler_options=examples.QUICK
    )
    params = examples.params(tiny.MODEL)
    state = {"step": np.int32(7), "params": params, "opt_state": optimizer.tx.init(params)}
    for rate in (1.0, 0.9):
        state, metrics = update(state, {}, tiny.batch())
        assert float(metrics["learning_rate"][0]) == pytest.approx(rate)
