"""Every family on a GPU beside the CPU, and fused attention in whole steps. `make test-gpu`."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import jax
import numpy as np
import pytest

from tests.models import decoder_examples, examples, t5gemma_examples
from tests.training import tiny
from ul2tune import sharding
from ul2tune.data.vocab_info import VocabInfo
from ul2tune.decoding.sampling import SamplingConfig
from ul2tune.evaluation.predictor import Predictor
from ul2tune.models import base
from ul2tune.sharding import MeshConfig
from ul2tune.training.loss import LossConfig
from ul2tune.training.step import StepConfig, forward

FUSED = "cudnn"
FAMILIES = {
    "t5": examples.config(),
    "gemma": decoder_examples.gemma(),
    "opt": decoder_examples.opt(),
    "t5 decoder": decoder_examples.t5(),
    "t5gemma": t5gemma_examples.first(),
    "t5gemma2": t5gemma_examples.second(),
}
VOCABULARY = VocabInfo(vocab_size=examples.VOCAB, num_sentinels=0)


def is_decoder(config: Any) -> bool:
    return not hasattr(config, "num_encoder_layers") and not hasattr(config, "encoder")


def packed_batch(config: Any) -> dict[str, np.ndarray]:
    return (decoder_examples if is_decoder(config) else examples).packed_batch()


def gradients(config: Any, params: Any, device: jax.Device) -> list[np.ndarray]:
    """The loss of a packed batch and its gradients, as a training step computes them."""
    step_config = StepConfig(
        model=config, loss=LossConfig(chunk_tokens=4), optimizer=tiny.optimizer()
    )
    batch = jax.device_put(packed_batch(config), device)

    @functools.partial(jax.jit, compiler_options=base.compiler_options(config))
    def computed(params, batch):
        def objective(params):
            weights_BL = batch["decoder_loss_weights"].astype(np.float32)
            output, _ = forward(params, batch, weights_BL, step_config, dropout_key=None)
            return output.loss_BL.sum()

        with base.matmul_precision(config):
            return jax.value_and_grad(objective)(params)

    leaves = jax.tree.leaves(computed(jax.device_put(params, device), batch))
    return [np.asarray(leaf, np.float64) for leaf in leaves]


def answers(config: Any, params: Any, device: jax.Device) -> tuple[Any, Any]:
    """Greedy and beam search's continuations of three prompts; log-likelihoods of given ones."""
    mesh = sharding.make_mesh(MeshConfig(data=1, fsdp=1, tensor=1), [device])
    predictor = Predictor(
        config,
        jax.device_put(params, device),
        mesh,
        info=VOCABULARY,
        num_ids=examples.VOCAB,
        batch_size=4,
        length_buckets=(8, 12),
        layout="prefix_lm" if is_decoder(config) else None,
    )
    random = np.random.default_rng(0)
    prompts = [random.integers(2, examples.VOCAB, n, dtype=np.int32) for n in (3, 8, 11)]
    targets = [random.integers(2, examples.VOCAB, n, dtype=np.int32) for n in (2, 5, 3)]
    ways = [SamplingConfig(max_decode_length=6, num_beams=beams) for beams in (1, 3)]
    continued = [predictor.generate(prompts, ["a", "b", "c"], sampling) for sampling in ways]
    return np.concatenate(continued), [scores.sum for scores in predictor.score(prompts, targets)]


@pytest.fixture(scope="module")
def cpu() -> jax.Device:
    return jax.devices("cpu")[0]


@pytest.mark.parametrize("scan", [True, False], ids=["scanned", "inline"])
@pytest.mark.parametrize("name", FAMILIES)
def test_float32_is_float32_on_a_gpu(name, scan, cpu):
    """Loss and every gradient are the CPU's: no product is rounded to TF32 (which errs by 5e-4)."""
    config = dataclasses.replace(FAMILIES[name], scan_layers=scan)
    with jax.default_device(cpu):
        params = jax.device_get(base.init_params(config, jax.random.key(0)))
    ours, theirs = (gradients(config, params, device) for device in (jax.devices()[0], cpu))
    whole = np.sqrt(sum((reference**2).sum() for reference in theirs))
    for gpu, reference in zip(ours, theirs, strict=True):
        # Some gradients are nothing but rounding: softmax does not see a bias of all keys (OPT).
        scale = max(np.linalg.norm(reference), 1e-2 * whole)
        assert np.linalg.norm(gpu - reference) <= 2e-5 * scale, scale


@pytest.mark.parametrize("name", FAMILIES)
def test_generation_and_scores_are_the_cpus(name, cpu):
    config = FAMILIES[name]
    with jax.default_device(cpu):
        params = jax.device_get(base.init_params(config, jax.random.key(0)))
    (ours, our_scores), (theirs, their_scores) = (
        answers(config, params, device) for device in (jax.devices()[0], cpu)
    )
    assert np.array_equal(ours, theirs)
    np.testing.assert_allclose(our_scores, their_scores, rtol=1e-5)


@pytest.mark.parametrize("remat", ["none", "dots", "full"])
@pytest.mark.parametrize("name", ["t5", "opt", "t5 decoder", "t5gemma2"])
def test_gradients_with_fused_attention_are_as_exact_as_without(name, remat, cpu):
    """bfloat16, packed rows; all parameters together are about as far from float32 as XLA's."""
    config = dataclasses.replace(FAMILIES[name], remat=remat)
    with jax.default_device(cpu):
        params = jax.device_get(base.init_params(config, jax.random.key(0)))
    exact = gradients(config, params, cpu)

    def error(attention: str) -> float:
        changed = dataclasses.replace(config, dtype="bfloat16", attention=attention)
        found = gradients(changed, params, jax.devices()[0])
        return float(sum(((x - y) ** 2).sum() for x, y in zip(found, exact, strict=True)) ** 0.5)

    assert error(FUSED) <= 1.5 * error("xla")
