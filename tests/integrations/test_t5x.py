"""T5X as the runner. Needs T5X and what it imports on PYTHONPATH (docs/t5x.md); else skipped."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from ul2tune import tree
from ul2tune.convert.t5x import legacy
from ul2tune.convert.t5x import models as t5x

if importlib.util.find_spec("t5x") is None:
    pytest.skip("t5x is not on PYTHONPATH (docs/t5x.md)", allow_module_level=True)

ROOT = Path(__file__).resolve().parents[2]
OURS = ("--gin_file=t5x/pretrain.gin", "--gin_file=models/t5_1_1_tiny.gin")
DATA = "--gin_file=data/span_corruption_stdlib.gin"
TINY = {
    "T5Config.d_model": 32,
    "T5Config.d_ff": 48,
    "T5Config.num_heads": 2,
    "T5Config.d_kv": 8,
    "TASK_FEATURE_LENGTHS": {"inputs": 64, "targets": 32},
    "BATCH_SIZE": 8,
    "RANDOM_SEED": 0,
    "train.train_eval_dataset_cfg": None,
    "train/utils.DatasetConfig.seed": 0,
    "SaveCheckpointConfig.period": 2,
}

pytestmark = [pytest.mark.slow, pytest.mark.tensorflow]


def run(model_dir: Path, *files: str, **bindings) -> None:
    """``python -m t5x.train`` in a process of its own."""
    settings = {**TINY, "MODEL_DIR": str(model_dir), **bindings}
    flags = [f"--gin.{name}={value!r}" for name, value in settings.items()]
    paths = [str(ROOT), os.environ.get("PYTHONPATH", "")]
    command = [sys.executable, "-m", "t5x.train", f"--gin_search_paths={ROOT / 'gin'}"]
    result = subprocess.run(
        [*command, *files, *flags],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths), "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        timeout=400,
    )
    assert result.returncode == 0, result.stderr[-4000:]


@pytest.mark.parametrize("use_orbax", [False, True])
def test_t5x_trains_our_model_on_our_task_and_we_read_what_it_writes(tmp_path, use_orbax):
    run(tmp_path, *OURS, DATA, TRAIN_STEPS=2, **{"train.use_orbax": use_orbax})
    source = t5x.open_model(str(tmp_path), {"dtype": "float32"})
    assert source.step == 2
    assert (source.config.d_model, source.config.num_heads, source.config.d_kv) == (32, 2, 8)
    assert source.has_adafactor
    assert source.notes == ()  # config.gin names the activation
    first = t5x.load_params(t5x.open_model(str(tmp_path / "checkpoint_0")))
    second = t5x.load_params(source)
    moved = [
        np.abs(a - b).max()
        for a, b in zip(tree.flatten(first).values(), tree.flatten(second).values())
    ]
    assert min(moved) > 0


def test_t5x_goes_on_from_what_we_export(tmp_path):
    """Straight for four steps, and two and two with our import and export in between: the same."""
    names = {"T5Config.activation": "gelu_gated", "train.use_orbax": False}
    run(tmp_path / "straight", *OURS, DATA, TRAIN_STEPS=2, **names)
    source = t5x.open_model(str(tmp_path / "straight"))
    tensors = {name: source.tensors.read(name) for name in source.tensors.names}
    del tensors["state/step"]
    copy = legacy.write(str(tmp_path / "copy"), source.step, tensors.items())
    ends = []
    for name, start in (("a", source.path), ("b", copy)):
        restore = {
            "RestoreCheckpointConfig.path": start,
            "RestoreCheckpointConfig.mode": "specific",
        }
        run(tmp_path / name, *OURS, DATA, TRAIN_STEPS=4, **names, **restore)
        ends.append(tree.flatten(t5x.load_params(str(tmp_path / name))))
    for path, array in ends[0].items():
        np.testing.assert_array_equal(array, ends[1][path], err_msg=path)


def no_examples(split, shuffle_files, seed=None):
    raise AssertionError("never read")


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # T5X imports what JAX will drop
def test_logits_scores_and_decodes_through_t5x(shared):
    """The same model through T5X's interface: what T5X's own network computed, we compute."""
    import seqio
    from t5x import adafactor, decoding

    from ul2tune.integrations.t5x import EncoderDecoderModel

    source = t5x.open_model(str(shared / "golden/t5x/t511_tiny_legacy"), {"dtype": "float32"})
    golden = np.load(shared / "golden/t5x/t511_tiny_ref.npz")
    batch = {k.removeprefix("batch/"): golden[k] for k in golden.files if k.startswith("batch/")}
    feature = seqio.Feature(vocabulary=seqio.ByteVocabulary(extra_ids=125))
    seqio.TaskRegistry.add(
        "test_t5x_golden",
        source=seqio.FunctionDataSource(no_examples, splits=["train"]),
        preprocessors=[],
        output_features={"inputs": feature, "targets": feature},
    )
    arguments = {
        "config": source.config,
        "mixture": "test_t5x_golden",
        "optimizer_def": adafactor.Adafactor(),
    }
    model = EncoderDecoderModel(**arguments, z_loss=1e-4)
    params = model.to_theirs(t5x.load_params(source))
    for name, array in tree.flatten(params).items():
        np.testing.assert_array_equal(array, source.tensors.read(f"target/{name}"), err_msg=name)
    params = jax.tree.map(jax.numpy.asarray, params)
    loss, _ = jax.jit(lambda p: model.loss_fn(p, batch, None))(params)
    np.testing.assert_allclose(loss, golden["loss"], rtol=1e-5)
    scores = model.score_batch(params, batch)
    np.testing.assert_allclose(scores, golden["seq_scores"], rtol=1e-5)
    with jax.numpy_rank_promotion("allow"):  # T5X's decoding functions rely on it
        decodes, aux = model.predict_batch_with_aux(
            params, batch, num_decodes=4, return_all_decodes=True
        )
        np.testing.assert_array_equal(decodes, golden["beam4"])
        np.testing.assert_allclose(aux["scores"], golden["beam4_scores"], rtol=1e-4)
        sampled = EncoderDecoderModel(**arguments, decode_fn=decoding.temperature_sample)
        greedy, _ = sampled.predict_batch_with_aux(
            params, batch, rng=jax.random.PRNGKey(0), decoder_params={"temperature": 0.0}
        )
        np.testing.assert_array_equal(greedy, golden["greedy"])
