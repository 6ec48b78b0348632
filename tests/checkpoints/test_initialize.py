"""What initial parameters say about the model they came from."""

import dataclasses

import jax.numpy as jnp

from ul2tune.checkpoints import initialize
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
