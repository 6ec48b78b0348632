"""Encoder-decoders out of decoder-only checkpoints, as far as a training step."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.models import examples
from tests.models import t5gemma_examples as tiny
from ul2tune import sharding, tree
from ul2tune.checkpoints.adapt import FromDecoderOnly
from ul2tune.checkpoints.manager import CheckpointManager
from ul2tune.models import base
from ul2tune.models.decoder import DecoderConfig
from ul2tune.models.t5gemma import T5GemmaConfig
from ul2tune.optim import optimizer as optimizer_lib
from ul2tune.optim.optimizer import OptimizerConfig
from ul2tune.sharding import MeshConfig

BALANCED = tiny.first(decoder=tiny.ENCODER)
GROUPS = (("decoder/layers/cross_attention.*", 1.0), (".*", "freeze"))


def save(folder: Any, config: DecoderConfig, seed: int) -> dict[str, np.ndarray]:
    """A checkpoint of a decoder-only model; its parameters by path."""
    params = examples.params(config, seed)
    manager = CheckpointManager(folder, keep_last=1)
    manager.save(7, {"step": jnp.int32(7), "params": params}, {})
    manager.close()
    return jax.tree.map(np.asarray, dict(tree.flatten(params)))


def start(init: FromDecoderOnly) -> dict[str, Any]:
    """Adapted parameters by path, on a mesh, in the shardings asked for."""
    mesh = sharding.make_mesh(MeshConfig(data=2, fsdp=4, tensor=1))
    shapes = base.abstract_params(init.model)
    shardings = sharding.param_shardings(shapes, base.param_axes(init.model), mesh)
    wanted = jax.tree.map(
        lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), shapes, shardings
    )
    found, flat = dict(tree.flatten(init(wanted))), dict(tree.flatten(wanted))
    assert {k: (v.shape, v.sharding) for k, v in found.items()} == {
        k: (v.shape, v.sharding) for k, v in flat.items()
    }
    return found


def loss_and_gradients(config: T5GemmaConfig, params: Any) -> Any:
    batch = examples.batch()
    targets_BL = jnp.asarray(batch["decoder_target_tokens"])

    def loss(params: Any) -> jax.Array:
        log_probs_BLV = jax.nn.log_softmax(base.bind(config, params).logits(batch))
        picked_BL = jnp.take_along_axis(log_probs_BLV, targets_BL[..., None], axis=-1)[..., 0]
        return -jnp.sum(picked_BL * (targets_BL != 0))

    return jax.jit(jax.value_and_grad(loss), compiler_options=examples.QUICK)(params)


def test_balanced_takes_everything_from_one_model(tmp_path):
    old = save(tmp_path, BALANCED.gemma("decoder"), seed=1)
    new = start(FromDecoderOnly(model=BALANCED, encoder_path=str(tmp_path)))
    for path, value in new.items():
        origin = path.replace("decoder_token", "token").replace("cross_attention", "attention")
        origin = origin.removeprefix("encoder/").removeprefix("decoder/")
        np.testing.assert_array_equal(value, old[origin], err_msg=path)
    # Copies are no aliases: training donates them one by one.
    owners: dict[int, set[str]] = {}
    for path, value in new.items():
        for shard in value.addressable_shards:
            owners.setdefault(shard.data.unsafe_buffer_pointer(), set()).add(path)
    assert [paths for paths in owners.values() if len(paths) > 1] == []
    # One step lowers the loss.
    params = jax.tree.map(np.asarray, tree.unflatten(new))
    config = OptimizerConfig(name="adamw")
    optimizer = optimizer_lib.make(
        config, base.abstract_params(BALANCED), base.param_axes(BALANCED)
    )
    before, gradients = loss_and_gradients(BALANCED, params)
    state = optimizer.tx.init(params)
    updates, _ = optimizer.tx.update(gradients, state, params)
    after, _ = loss_and_gradients(BALANCED, jax.tree.map(lambda p, u: p + u, params, updates))
    assert after < before


def test_unbalanced_draws_cross_attention_and_trains_it_alone(tmp_path):
    config = tiny.first()
    encoder = save(tmp_path / "encoder", config.gemma("encoder"), seed=1)
    decoder = save(tmp_path / "decoder", config.gemma("decoder"), seed=2)
    paths = {side: str(tmp_path / side) for side in ("encoder", "decoder")}
    new = start(
        FromDecoderOnly(
            model=config, encoder_path=paths["encoder"], decoder_path=paths["decoder"], seed=3
        )
    )
    drawn = {path for path in new if "cross_attention" in path}
    fresh = tree.flatten(base.init_params(config, jax.random.key(3)))
    for path in drawn:
        np.testing.assert_allclose(new[path], fresh[path], rtol=1e-6)
    for path in new.keys() - drawn:
        old = encoder if path.startswith(("encoder/", "token_")) else decoder
        origin = path.replace("decoder_token", "token")
        origin = origin.removeprefix("encoder/").removeprefix("decoder/")
        np.testing.assert_array_equal(new[path], old[origin], err_msg=path)
    optimizer = optimizer_lib.make(
        OptimizerConfig(groups=GROUPS), base.abstract_params(config), base.param_axes(config)
    )
    trainable = {path for path, on in tree.flatten(optimizer.trainable).items() if on}
    assert trainable == drawn


def test_merged_attention_is_self_attention(tmp_path):
    config = tiny.second(eoi_id=9)
    old = save(tmp_path, config.gemma("decoder"), seed=1)
    new = start(FromDecoderOnly(model=config, encoder_path=str(tmp_path)))
    for side in ("encoder", "decoder"):
        for name in ("attention/query", "attention/key_norm/scale", "mlp/wo"):
            path = f"layers/{name}"
            np.testing.assert_array_equal(new[f"{side}/{path}"], old[path])
    row_D = old["token_embedding"][9] * 4.0  # the square root of the width
    np.testing.assert_allclose(new["eoi_embedding"], row_D, rtol=1e-6)


@pytest.mark.parametrize(
    ("model", "options", "message"),
    [
        (tiny.first(), {"cross_attention": "copy"}, "needs .* one d_model, not 16 and 8"),
        (tiny.first(), {"cross_attention": "zero"}, "'zero' is not one of"),
        (tiny.second(), {"cross_attention": "new"}, "does nothing with merged_attention"),
    ],
)
def test_users_errors(model, options, message):
    with pytest.raises(ValueError, match=message):
        FromDecoderOnly(model=model, encoder_path="x", **options)


def test_a_checkpoint_of_another_size_is_refused(tmp_path):
    save(tmp_path, BALANCED.gemma("decoder"), seed=1)
    other = dataclasses.replace(tiny.ENCODER, d_ff=32)
    model = tiny.first(encoder=other, decoder=other)
    with pytest.raises(ValueError, match="mlp/w"):
        start(FromDecoderOnly(model=model, encoder_path=str(tmp_path)))
