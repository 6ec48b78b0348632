"""One training step of T5X, reproduced: from checkpoint and batch to parameters and moments."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax

from ul2tune import tree
from ul2tune.convert.t5x import models as t5x
from ul2tune.models import base
from ul2tune.models.t5 import T5Config
from ul2tune.optim import optimizer as optimizers
from ul2tune.optim.adafactor import AdafactorState
from ul2tune.optim.optimizer import OptimizerConfig
from ul2tune.optim.schedules import ScheduleConfig
from ul2tune.training.cross_entropy import cross_entropy
from ul2tune.training.loss import LossConfig

MODEL = T5Config(
    vocab_size=384,
    d_model=128,
    d_kv=32,
    d_ff=256,
    num_heads=4,
    num_encoder_layers=2,
    num_decoder_layers=2,
    dtype="float32",
)


class Updated:
    """What T5X had after its step, under the names of a checkpoint."""

    def __init__(self, reference):
        self.arrays = {
            name.replace("update_state/", "state/").replace("update/", "target/"): array
            for name, array in reference.items()
            if name.startswith("update")
        }
        self.names = self.arrays.keys()

    def shape(self, name):
        return self.arrays[name].shape

    def read(self, name):
        return self.arrays[name]


def factorings(adafactor):
    axes = tree.flatten(base.param_axes(MODEL))
    shapes = tree.flatten(base.abstract_params(MODEL))
    return {path: adafactor.factoring(path, shapes[path].shape, axes[path]) for path in axes}


def test_a_step_from_a_t5x_checkpoint_ends_where_t5x_ends(shared):
    folder = shared / "golden/t5x"
    reference = dict(np.load(folder / "t511_tiny_ref.npz"))
    source = t5x.open_model(folder / "t511_tiny_legacy", {"dtype": MODEL.dtype})
    assert source.config == MODEL
    params = t5x.load_params(source)
    config = OptimizerConfig(schedule=ScheduleConfig(learning_rate=0.01))
    optimizer = optimizers.make(config, params, base.param_axes(MODEL))
    plans = factorings(config.adafactor)
    moments = t5x.load_moments(source, plans)
    trees = [tree.unflatten(dict(m)) for m in (moments.v_row, moments.v_col, moments.v)]
    adafactor, *rest = optimizer.tx.init(params)
    assert jax.tree.map(jnp.shape, adafactor[1:]) == jax.tree.map(jnp.shape, tuple(trees))
    state = (AdafactorState(jnp.int32(moments.step), *trees), *rest)
    batch = {k.removeprefix("batch/"): v for k, v in reference.items() if k.startswith("batch/")}

    def objective(params):
        model = base.bind(MODEL, params)
        output = cross_entropy(
            model.hidden(batch),
            model.head_kernel(),
            batch["decoder_target_tokens"],
            batch["decoder_loss_weights"],
            LossConfig(z_loss=1e-4, chunk_tokens=32),
            model.logit_softcap,
        )
        return jnp.sum(output.loss_BL), jnp.sum(output.z_loss_BL)

    @jax.jit
    def step(params, state):
        (loss, z_loss), grads = jax.value_and_grad(objective, has_aux=True)(params)
        updates, state = optimizer.tx.update(grads, state, params)
        return loss, z_loss, tree.global_norm(grads), optax.apply_updates(params, updates), state

    loss, z_loss, grad_norm, params, (adafactor, *_) = step(params, state)
    np.testing.assert_allclose(loss, reference["loss"], rtol=1e-5)
    np.testing.assert_allclose(z_loss, reference["z_loss"], rtol=1e-5)
    np.testing.assert_allclose(grad_norm, reference["grad_norm"], rtol=1e-5)
    assert adafactor.count == reference["update_state/step"] == 21

    after = t5x.load_params(dataclasses.replace(source, tensors=Updated(reference)))
    for path, value in tree.flatten(params).items():
        np.testing.assert_allclose(
            value, tree.flatten(after)[path], rtol=0, atol=1e-6, err_msg=path
        )
    expected = t5x.load_moments(dataclasses.replace(source, tensors=Updated(reference)), plans)
    assert expected.step == 21
    for name in ("v_row", "v_col", "v"):
        for path, value in tree.flatten(getattr(adafactor, name)).items():
            want = getattr(expected, name)[path]
            np.testing.assert_allclose(value, want, rtol=1e-4, atol=1e-12, err_msg=f"{path} {name}")
