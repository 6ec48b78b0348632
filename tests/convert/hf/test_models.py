"""Whole models: what must be there, what must not, loading onto a mesh, exporting exactly."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from tests.convert import models
from ul2tune import sharding, tree
from ul2tune.convert.hf import hub
from ul2tune.convert.hf import models as hf
from ul2tune.models import base
from ul2tune.models.t5 import T5Config

ATTENTION = "encoder.block.0.layer.0.SelfAttention.q.weight"
NORM = "decoder.final_layer_norm.weight"
IGNORED = "decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight"


def on_mesh(config: Any, mesh: jax.sharding.Mesh) -> Any:
    abstract = base.abstract_params(config)
    shardings = sharding.param_shardings(abstract, base.param_axes(config), mesh)
    return jax.tree.map(
        lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), abstract, shardings
    )


@pytest.mark.parametrize("small", [0, 2**24])
def test_every_shard_of_a_mesh_gets_its_numbers(monkeypatch, small: int):
    monkeypatch.setattr(hf, "SMALL_BYTES", small)
    source = hf.open_model(models.FLAN_T5)
    mesh = sharding.make_mesh(sharding.MeshConfig(data=2, fsdp=2, tensor=2))
    abstract = on_mesh(source.config, mesh)
    checkpoint = hf.Checkpoint(path=str(models.FLAN_T5))
    assert str(checkpoint) == str(models.FLAN_T5)  # for people
    params = tree.flatten(checkpoint(abstract))
    wanted = tree.flatten(abstract)
    for leaf, (path, shape, layers) in zip(source.leaves, source.arrays(), strict=True):
        found = params[path]
        assert found.sharding == wanted[path].sharding
        assert (found.shape, found.dtype) == (shape, np.float32)
        expected = np.stack(list(layers)) if leaf.stacked else next(layers)
        np.testing.assert_array_equal(np.asarray(found), expected.astype(np.float32))


def test_an_initial_folder_is_looked_at_before_a_run(tmp_path):
    hf.Checkpoint(path=str(models.FLAN_T5)).check_source()
    with pytest.raises(ValueError, match="nowhere"):
        hf.Checkpoint(path=str(tmp_path / "nowhere")).check_source()


def test_another_model_than_the_one_asked_for_is_refused():
    other = T5Config(
        vocab_size=8, d_model=8, d_kv=4, d_ff=8, num_heads=2, num_encoder_layers=1,
        num_decoder_layers=1,
    )  # fmt: skip
    with pytest.raises(ValueError, match="is another model"):
        hf.load_params(models.T5_1_0, base.abstract_params(other))


def damaged(tmp_path: Path, change: Callable[[dict[str, np.ndarray]], object]) -> Path:
    folder = models.copy(models.T5_1_0, tmp_path / "m")
    arrays = models.tensors(folder)
    change(arrays)
    models.write(folder, arrays)
    return folder


def load(folder: Path) -> Any:
    source = hf.open_model(folder)
    return hf.load_params(source, base.abstract_params(source.config))


def read_all(folder: Path) -> None:
    for _, _, layers in hf.open_model(folder).arrays():
        for layer in layers:
            assert layer.size


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda x: x.pop(ATTENTION), "lacks tensor .*SelfAttention.q.weight.*1 such"),
        (lambda x: x.update(extra=x[NORM]), "holds tensor 'extra', which .* does not have"),
        (lambda x: x.update({ATTENTION: x[ATTENTION][:, :-1]}), r"has shape \[8, 7\].*\[8, 8\]"),
        (lambda x: x.update({NORM: x[NORM][None]}), r"has shape \[1, 8\].*\[8\]"),
        (lambda x: x.update({NORM: x[NORM].astype(np.float64)}), "has dtype F64"),
        (lambda x: x.update({NORM: x[NORM].astype(np.int8)}), "has dtype I8"),
        (lambda x: x[NORM].__setitem__(3, np.nan), f"Tensor '{NORM}'.*holds a NaN"),
        (lambda x: x[ATTENTION].__setitem__((7, 7), -np.inf), "holds a NaN or an infinity"),
        (
            lambda x: x.update({"encoder.embed_tokens.weight": x["shared.weight"] + 1}),
            "'shared.weight' and 'encoder.embed_tokens.weight' with different numbers",
        ),
        (
            lambda x: x.update({"lm_head.weight": x["shared.weight"][:3]}),
            r"Tensor 'lm_head.weight' .* has shape \[3, 8\]",
        ),
    ],
)
def test_damaged_models_are_refused(tmp_path: Path, change: Callable[..., object], reason: str):
    with pytest.raises(ValueError, match=reason):
        read_all(damaged(tmp_path, change))


def test_copies_and_leftovers_of_published_files_are_accepted(tmp_path: Path):
    def change(arrays: dict[str, np.ndarray]) -> None:
        for name in ("encoder.embed_tokens.weight", "decoder.embed_tokens.weight"):
            arrays[name] = arrays["shared.weight"].copy()
        arrays["lm_head.weight"] = arrays["shared.weight"].copy()
        arrays[IGNORED] = np.zeros((8, 2), np.float32)

    folder = damaged(tmp_path, change)
    assert hf.open_model(folder).config == hf.open_model(models.T5_1_0).config
    jax.tree.map(np.testing.assert_array_equal, load(folder), load(models.T5_1_0))


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"model_type": "bert"}, "model_type = 'bert'; supported are"),
        ({"model_type": ["t5"]}, "model_type"),
        ({"d_model": 16}, "has shape"),
        ({"num_layers": 3}, "lacks tensor"),
        ({"num_decoder_layers": 1}, "does not have"),
        ({"vocab_size": 41}, r"has shape \[40, 8\]"),
        ({"d_ff": 2**60}, "d_ff = 1152921504606846976"),
        ({"d_ff": 2**24, "d_model": 2**24, "num_heads": 2**24}, "config.json"),
        ({"num_layers": 10**9}, "num_layers = 1000000000"),
        ({"quantization_config": {"bits": 4}}, "is quantised"),
        ({"feed_forward_proj": "gated-gelu", "is_gated_act": None, "dense_act_fn": None}, "lacks"),
    ],
)
def test_a_config_that_is_not_the_models_is_refused(tmp_path: Path, fields: Any, reason: str):
    folder = models.copy(models.T5_1_0, tmp_path / "m")
    models.edit_config(folder, **fields)
    with pytest.raises(ValueError, match=reason):
        read_all(folder)


def test_a_repository_needs_the_extra(tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(__import__("sys").modules, "huggingface_hub", None)
    with pytest.raises(ImportError, match=r"pip install 'ul2tune\[hf\]'"):
        hub.folder("google/flan-t5-small")
    for name in ("nowhere", "/no/where", "a/b/c", "../x", "a/..", "https://x/y"):
        with pytest.raises(ValueError, match="neither a folder nor"):
            hub.folder(name)
    (tmp_path / "there").mkdir()
    assert hub.folder("there") == Path("there")
    with pytest.raises(ValueError, match="is a folder"):
        hub.folder("there", "main")
