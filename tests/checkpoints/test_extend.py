"""Embedding rows of a larger vocabulary."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ul2tune import sharding
from ul2tune.checkpoints import extend
from ul2tune.checkpoints.manager import CheckpointManager
from ul2tune.sharding import MeshConfig

ROWS, WIDTH = 12, 4


def arrays(rows: int) -> dict:
    key = np.random.default_rng(0)
    return {
        "token_embedding": key.normal(size=(rows, WIDTH)).astype(np.float32),
        "head": key.normal(size=(rows, WIDTH)).astype(np.float32),
        "encoder": {"head": np.ones((3, WIDTH), np.float32)},
    }


@pytest.fixture
def folder(tmp_path):
    manager = CheckpointManager(tmp_path, keep_last=1)
    manager.save(7, {"step": jnp.int32(7), "params": jax.tree.map(jnp.asarray, arrays(ROWS))}, {})
    manager.close()
    return tmp_path


def abstract(rows: int, spec=("fsdp",)):
    mesh = sharding.make_mesh(MeshConfig(data=1, fsdp=8, tensor=1))
    placed = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(*spec))
    whole = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())

    def leaf(array):
        sharding = placed if array.shape[0] == rows else whole
        return jax.ShapeDtypeStruct(array.shape, array.dtype, sharding=sharding)

    return jax.tree.map(leaf, arrays(rows))


@pytest.mark.parametrize(("rows", "real"), [(16, 12), (16, 10), (12, 9), (12, 12)])
def test_new_rows_are_the_mean_of_the_real_ones(folder, rows, real):
    # 12 rows do not divide among 8 devices, 16 do.
    wanted = abstract(rows, ("fsdp",) if rows == 16 else ())
    init = extend.from_smaller_vocabulary(str(folder), real)
    params, old = init(wanted), arrays(ROWS)
    for name in ("token_embedding", "head"):
        np.testing.assert_array_equal(params[name][:real], old[name][:real])
        mean = np.broadcast_to(old[name][:real].mean(axis=0), (rows - real, WIDTH))
        np.testing.assert_allclose(params[name][real:], mean, rtol=1e-6)
        assert params[name].sharding == wanted[name].sharding
    np.testing.assert_array_equal(params["encoder"]["head"], old["encoder"]["head"])


def test_the_step_counter(folder):
    assert extend.from_smaller_vocabulary(str(folder), 12).first_step == 7
    assert extend.from_smaller_vocabulary(str(folder), 12, keep_step=False).first_step == 0


@pytest.mark.parametrize(
    ("rows", "options", "message"),
    [
        (16, {"real_rows": 13}, "holds 12 rows of 'head', the model has 16 and real_rows is 13"),
        (8, {"real_rows": 8}, "holds 12 rows of 'head', the model has 8"),
        (16, {"real_rows": 12, "parameters": "embedding"}, "no parameter that matches"),
        (16, {"real_rows": 0}, "must be positive"),
    ],
)
def test_users_errors(folder, rows, options, message):
    with pytest.raises(ValueError, match=message):
        extend.SmallerVocabulary(path=str(folder), **options)(abstract(rows))
