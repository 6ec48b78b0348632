"""What only an NVIDIA GPU can show: cuDNN's attention, and a run on the device. `make test-gpu`."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.training import tiny
from ul2tune.models import attention
from ul2tune.models.visibility import Visibility

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(
        jax.default_backend() != "gpu", reason="needs an NVIDIA GPU (`make test-gpu`)"
    ),
]
ROOT = Path(__file__).resolve().parents[2]
ROWS, HEADS, SIZE = 4, 6, 64
# name -> query length, key length, causal, with a bias
SIDES = {
    "encoder": (256, 256, False, True),
    "decoder": (114, 114, True, True),
    "cross": (114, 256, False, False),
}


def segments(rows: str, length: int, seed: int) -> jax.Array:
    index_L, random = np.arange(length), np.random.default_rng(seed)
    if rows == "full":
        ids = np.ones((ROWS, length))
    elif rows == "padded":
        ids = index_L < random.integers(1, length + 1, (ROWS, 1))
    else:  # three segments, then padding
        ids = 1 + np.searchsorted([length // 4, length // 2, length - 8], index_L, side="right")
        ids = np.tile(np.where(ids > 3, 0, ids), (ROWS, 1))
    return jnp.asarray(ids, jnp.int32)


@pytest.mark.parametrize("rows", ["full", "padded", "packed"])
@pytest.mark.parametrize("side", SIDES)
def test_cudnn_is_as_exact_as_xla(side, rows):
    """Output and gradients in bfloat16: no further from float32 than plain XLA's, or nearly so."""
    length, keys, causal, biased = SIDES[side]
    query_BL = segments(rows, length, 0)
    key_BS = query_BL if length == keys else segments(rows, keys, 1)
    packed = rows == "packed"
    seen = Visibility(query_BL=query_BL, key_BS=key_BS, causal=causal, packed=packed)
    random = np.random.default_rng(2)
    query, key, value = (
        jnp.asarray(scale * random.standard_normal((ROWS, n, HEADS, SIZE)), jnp.float32)
        for scale, n in ((0.3, length), (0.3, keys), (1.0, keys))
    )
    bias_HW = random.standard_normal((HEADS, length + keys - 1)) if biased else None

    def computed(name: str, dtype: Any) -> list[np.ndarray]:
        how = attention.Implementation(name=name, chunk_tokens=64)

        def weighed(query, key, value, bias_HW):
            inputs = (x.astype(dtype) for x in (query, key, value))
            out = attention.attend(*inputs, bias_HW, seen, how).astype(jnp.float32)
            out = jnp.where((query_BL != 0)[:, :, None, None], out, 0)
            return jnp.sum(jnp.sin(out)), out

        inputs = (query, key, value, *([] if bias_HW is None else [jnp.asarray(bias_HW)]))
        of = jax.value_and_grad(weighed, argnums=tuple(range(len(inputs))), has_aux=True)
        (_, out), grads = jax.jit(of)(query, key, value, *inputs[3:] or (None,))
        return [np.asarray(x, np.float64) for x in (out, *grads)]

    with jax.default_matmul_precision("highest"):
        exact = computed("xla", jnp.float32)
    theirs, ours = computed("xla", jnp.bfloat16), computed("cudnn", jnp.bfloat16)
    for cudnn, xla, reference in zip(ours, theirs, exact):
        error, usual = (np.linalg.norm(x - reference) for x in (cudnn, xla))
        assert error <= 2 * usual, (error, usual, np.linalg.norm(reference))


@pytest.mark.parametrize("remat", ["none", "dots", "full"])
def test_a_step_with_cudnn_is_a_step_with_xla(remat):
    metrics = {}
    for name in ("xla", "cudnn"):
        model = dataclasses.replace(
            tiny.MODEL, dtype="bfloat16", attention=name, remat=remat, num_encoder_layers=2
        )
        mesh, devices = tiny.one_device()
        metrics[name] = tiny.Trainer(mesh, devices, model=model).run(tiny.batch())
    for quantity in ("loss", "grad_norm", "update_norm"):
        ours, theirs = (metrics[name][quantity] for name in ("cudnn", "xla"))
        np.testing.assert_allclose(ours[0] / ours[1], theirs[0] / theirs[1], rtol=2e-2)


RUN = """
import dataclasses, sys
import jax
from tests.training import tiny
from ul2tune.training.run import train

arguments = tiny.arguments(*sys.argv[1:])
changes = {"dtype": "bfloat16", "attention": "cudnn", "remat": "dots"}
train(**arguments | {"model": dataclasses.replace(tiny.RUN_MODEL, **changes)})
assert jax.default_backend() == "gpu"
heavy = sorted({"tensorflow", "seqio"} & set(sys.modules))
assert not heavy, heavy
"""


def test_a_run_needs_no_tensorflow(tmp_path):
    tiny.write_data(tmp_path / "data")
    command = [sys.executable, "-c", RUN, str(tmp_path / "run"), str(tmp_path / "data")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr[-4000:]
    assert (tmp_path / "run/checkpoints/6").is_dir()
