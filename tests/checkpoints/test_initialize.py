"""What initial parameters say about the model they came from."""

import dataclasses

import jax
import jax.numpy as jnp
import pytest

from tests.checkpoints import saving
from tests.models import t5gemma_examples
from ul2tune.checkpoints import adapt, extend, initialize
from ul2tune.checkpoints.manager import CheckpointManager


@dataclasses.dataclass(frozen=True, kw_only=True)
class Model:
    activation: str = "gelu_gated"
    dropout_rate: float = 0.0


def test_a_model_of_the_same_shapes_but_another_function_is_a_warning(tmp_path, caplog):
    manager = CheckpointManager(tmp_path, keep_last=1)
    config = {"model": {"class": "Model", **dataclasses.asdict(Model())}}
    manager.save(7, {"step": jnp.int32(7), "params": {"w": jnp.ones(4)}}, {"config": config})
    manager.close()

    initialize.warn_of_other_model(tmp_path, Model(dropout_rate=0.1))
    assert not caplog.records  # dropout is a choice of the run

    initialize.warn_of_other_model(tmp_path, Model(activation="silu_gated"))
    (record,) = caplog.records
    assert "activation = 'gelu_gated'; this model has 'silu_gated'" in record.getMessage()


@pytest.mark.parametrize(
    "make",
    [initialize.from_checkpoint, lambda path: extend.from_smaller_vocabulary(path, real_rows=4)],
)
def test_a_run_that_goes_on_meanwhile_means_one_step(tmp_path, make):
    def save(step: int) -> None:
        manager = CheckpointManager(tmp_path, keep_last=2)
        params = {"head": jnp.full((4,), float(step))}
        manager.save(step, {"step": jnp.int32(step), "params": params}, {})
        manager.close()

    save(1)
    init = make(str(tmp_path))
    assert init.first_step == 1
    save(2)
    sharding = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    params = init({"head": jax.ShapeDtypeStruct((4,), jnp.float32, sharding=sharding)})
    assert params["head"].tolist() == [1.0] * 4
    assert init.first_step == 1


def test_whether_there_is_a_checkpoint_is_asked_without_devices(tmp_path, monkeypatch):
    here = str(tmp_path)
    makers = [
        initialize.from_checkpoint,
        lambda path: extend.from_smaller_vocabulary(path, real_rows=4),
        lambda path: adapt.FromDecoderOnly(model=t5gemma_examples.first(), encoder_path=path),
        lambda path: adapt.FromDecoderOnly(
            model=t5gemma_examples.first(), encoder_path=here, decoder_path=path
        ),
    ]
    (tmp_path / "3" / "meta").mkdir(parents=True)
    monkeypatch.setattr(jax, "process_count", None)
    for make in makers:
        make(here).check_source()
        with pytest.raises(ValueError, match=r"No checkpoint at .*nowhere'"):
            make(f"{here}/nowhere").check_source()


def test_the_start_of_a_run_is_told_in_words(tmp_path):
    path = str(tmp_path)
    saving.save(tmp_path, 20, {"step": jnp.int32(20), "params": {"w": jnp.ones(4)}})
    words = f"step 20 of {path}"
    assert str(initialize.from_checkpoint(path)) == words
    all_options = initialize.from_checkpoint(path, keep_step=False, keep_optimizer=True, ema=True)
    assert str(all_options) == (
        f"{words}, its averaged parameters, with its optimiser's state, counting from 0"
    )
    smaller = extend.from_smaller_vocabulary(path, real_rows=32_100)
    assert str(smaller) == f"{words}, its first 32,100 embedding rows"
    two = adapt.FromDecoderOnly(model=t5gemma_examples.first(), encoder_path=path)
    assert str(two) == f"{words} (encoder), {words} (decoder)"
