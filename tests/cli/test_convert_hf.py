"""`ul2tune import hf` and `ul2tune export hf`, as a user types them."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from tests.checkpoints import saving
from tests.convert import models
from ul2tune import sharding, tree
from ul2tune.checkpoints import description, initialize, layout, vocabulary
from ul2tune.cli import gin_config, imported, main
from ul2tune.cli.prepared import prepare_missing
from ul2tune.convert.hf import folder as hf_folder
from ul2tune.convert.hf import models as hf
from ul2tune.data import ul2_presets, vocab
from ul2tune.evaluation.predictor import abstract_sharded_params
from ul2tune.models import base
from ul2tune.models.t5 import T5Config
from ul2tune.training.run import train


def run(*arguments: object) -> int:
    return main.main([str(argument) for argument in arguments])


@pytest.fixture
def flan(tmp_path: Path) -> Path:
    """bfloat16, several files, with a tokenizer and a file nobody asked for."""
    folder = models.copy(models.FLAN_T5, tmp_path / "flan")
    (folder / "tokenizer.json").write_text('{"version": "1.0"}')
    (folder / "spiece.model").write_bytes(b"\x00model")
    (folder / "modeling_evil.py").write_text("raise SystemExit")
    return folder


def same_tensors(a: Path, b: Path) -> bool:
    first, second = models.tensors(a), models.tensors(b)
    return first.keys() == second.keys() and all(
        first[n].dtype == second[n].dtype and first[n].tobytes() == second[n].tobytes()
        for n in first
    )


def test_there_and_back_is_exact(flan: Path, tmp_path: Path, capsys):
    model_dir, back = tmp_path / "ours", tmp_path / "back"
    assert run("import", "hf", flan, model_dir, "--step=100") == 0
    assert re.search(r"imported: (\d+)/\1 MB", capsys.readouterr().err)
    assert layout.steps(model_dir / "checkpoints") == [100]
    names = ["checkpoints", "hf", "model.gin", "vocabulary.json"]
    assert sorted(p.name for p in model_dir.iterdir()) == names
    assert vocab.load(model_dir).kind == "sentencepiece"  # nothing has opened the file
    assert json.loads((model_dir / "vocabulary.json").read_text())["file"] == "hf/spiece.model"
    assert run("export", "hf", model_dir, back, "--max_shard_size=4e-6") == 0
    assert same_tensors(flan, back)
    for name in ("tokenizer.json", "spiece.model", "generation_config.json"):
        assert (back / name).read_bytes() == (flan / name).read_bytes()
    assert not (back / "modeling_evil.py").exists()
    assert len(list(back.glob("model-*.safetensors"))) > 1
    assert hf.open_model(back).config == hf.open_model(flan).config


def test_the_import_starts_runs_and_evaluations(flan: Path, tmp_path: Path):
    assert run("import", "hf", flan, tmp_path / "ours") == 0
    # The gin file means the same model (dropout is the run's) …
    files = ["data/ul2r_stdlib.gin", "optim/adafactor_ul2r.gin", "runs/continue.gin"]
    macros = {
        "MODEL_DIR": tmp_path / "run",
        "INITIAL_CHECKPOINT_PATH": tmp_path / "ours",
        "TRAIN_STEPS_RELATIVE": 1,
    }
    config = gin_config.load(
        [str(tmp_path / "ours" / "model.gin"), *files],
        [(name, str(value)) for name, value in macros.items()],
        roots=(prepare_missing, train),
        search_paths=[],
    )
    model = hf.open_model(flan).config
    assert model.dropout_rate == 0.1
    assert config.arguments(train)["model"] == dataclasses.replace(model, dropout_rate=0.0)
    # … and the checkpoint is one that everything else reads, on any mesh.
    mesh = sharding.make_mesh(sharding.MeshConfig(fsdp=4, tensor=2))
    params = initialize.load_params(tmp_path / "ours", abstract_sharded_params(model, mesh))
    direct = hf.load_params(flan, abstract_sharded_params(model, mesh))
    jax.tree.map(np.testing.assert_array_equal, params, direct)
    assert initialize.from_checkpoint(str(tmp_path / "ours")).first_step == 0


def test_a_runs_checkpoint_is_exported_like_what_it_began_as(flan: Path, tmp_path: Path):
    source = hf.open_model(flan)
    mesh = sharding.make_mesh(sharding.MeshConfig(fsdp=8))
    params = hf.load_params(flan, abstract_sharded_params(source.config, mesh))
    with_state = {"params": params, "opt_state": [{"mu": params}], "step": np.int32(3)}
    saving.save(
        tmp_path / "run", 3, with_state, {"config": {"model": description.describe(source.config)}}
    )
    assert run("export", "hf", tmp_path / "run", tmp_path / "plain") == 0
    assert {x.dtype for x in models.tensors(tmp_path / "plain").values()} == {np.dtype("f4")}
    assert not (tmp_path / "plain" / "tokenizer.json").exists()
    assert run("export", "hf", tmp_path / "run", tmp_path / "like", "--like", flan) == 0
    assert same_tensors(flan, tmp_path / "like")
    assert (tmp_path / "like" / "tokenizer.json").exists()
    assert run("import", "hf", flan, tmp_path / "ours") == 0
    like = ("--like", tmp_path / "ours")
    assert run("export", "hf", tmp_path / "run", tmp_path / "again", *like) == 0
    assert same_tensors(flan, tmp_path / "again")


@pytest.mark.parametrize(
    ("model", "like", "refusal"),
    [
        ("decoder/llama3", "t5/flan_t5", "is a t5, but {run} is a llama: name the model"),
        ("t5/flan_t5", "decoder/llama3", "is a llama, but {run} is a t5: name the model"),
        ("t5gemma/t5gemma", "t5/flan_t5", "is a t5, but {run} is a t5gemma: name the model"),
        ("decoder/gemma2", "t5gemma/t5gemma", "is a t5gemma, but {run} is a gemma2: name"),
        # What a T5Gemma is adapted from, and a kind of the same family.
        ("t5gemma/t5gemma", "decoder/gemma2", None),
        ("t5/t5_1_0", "t5/mt5", None),
    ],
)
def test_a_like_of_another_family_is_refused(model, like, refusal, tmp_path: Path, capsys):
    ours, back = tmp_path / "run", tmp_path / "back"
    assert run("import", "hf", models.GOLDENS / model / "model", ours) == 0
    given = models.GOLDENS / like / "model"
    status = run("export", "hf", ours, back, "--like", given)
    assert (status, back.exists()) == ((1, False) if refusal else (0, True))
    if refusal:
        assert f"--like={given} {refusal.format(run=ours)}" in capsys.readouterr().err


def test_a_model_without_a_tokenizer_is_told_where_to_put_one(tmp_path: Path, capsys):
    source = models.copy(models.T5_1_0, tmp_path / "source")
    assert run("import", "hf", source, tmp_path / "ours") == 0
    assert f"{source} holds no tokenizer: none of" in (said := capsys.readouterr().out)
    assert f"Add the model's tokenizer files to {source} and import it again" in said


def test_an_export_says_that_the_tokenizer_lacks_the_added_rows(flan: Path, tmp_path: Path, capsys):
    """As after runs/extend.gin."""
    config = hf.open_model(flan).config
    config = dataclasses.replace(config, vocab_size=config.vocab_size + 128)
    params = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), base.abstract_params(config))
    saving.save(
        tmp_path / "run", 3, {"params": params}, {"config": {"model": description.describe(config)}}
    )
    assert run("export", "hf", tmp_path / "run", tmp_path / "out", "--like", flan) == 0
    assert "do not know what the 128 added rows" in capsys.readouterr().out
    assert run("export", "hf", tmp_path / "run", tmp_path / "plain") == 0  # without a tokenizer
    assert run("import", "hf", flan, tmp_path / "ours") == 0
    assert run("export", "hf", tmp_path / "ours", tmp_path / "back") == 0
    assert "added rows" not in capsys.readouterr().out


UL2R = ul2_presets.preset("ul2r")
DECODERS, T5S = {"kind": "tokenizer_json", "sha256": "0"}, {"kind": "sentencepiece", "sha256": "0"}


@pytest.mark.parametrize(
    ("kind", "noise", "lacks"),
    [
        (DECODERS, UL2R, "sentinels and mode tokens"),
        (T5S, UL2R, "mode tokens"),
        (DECODERS, UL2R.without_modes(), "sentinels"),
        (T5S, UL2R.without_modes(), None),
        (T5S, dataclasses.replace(UL2R, mode_tokens=dict.fromkeys("RSX", (5,))), None),
        (DECODERS, ul2_presets.preset("prefix_lm").without_modes(), None),
        (DECODERS, None, None),
    ],
)
def test_an_export_says_what_its_tokenizer_lacks_where_rows_were_spare(
    flan: Path, tmp_path: Path, capsys, kind, noise, lacks
):
    """A Qwen after UL2R, for example."""
    config = hf.open_model(flan).config
    params = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), base.abstract_params(config))
    # Who writes data without us may leave out what has a default.
    online = None
    if noise is not None:
        online = {"kind": "ul2", "config": {k: v for k, v in noise.to_json().items() if v}}
        names = [{k: v for k, v in d.items() if v} for d in online["config"]["denoisers"]]
        online["config"]["denoisers"] = names
    trained = {"model": description.describe(config), "prepared": {"notes": {"online": online}}}
    saving.save(tmp_path / "run", 3, {"params": params}, {"config": trained, vocabulary.KEY: kind})
    assert run("export", "hf", tmp_path / "run", tmp_path / "out", "--like", flan) == 0
    said = capsys.readouterr().out
    assert ("they do not know the" in said) == (lacks is not None)
    assert lacks is None or f"do not know the {lacks} that this model was trained with" in said


def test_an_export_says_that_it_rounds_where_nobody_asked_for_it(
    flan: Path, tmp_path: Path, capsys
):
    assert run("import", "hf", flan, tmp_path / "ours") == 0
    for name, arguments in {"as it began": (), "asked for": ("--dtype=bfloat16",)}.items():
        capsys.readouterr()
        assert run("export", "hf", tmp_path / "ours", tmp_path / name, *arguments) == 0
        said = f"Weights have the dtypes of {tmp_path / 'ours' / 'hf'} (bfloat16), to which"
        assert (said in capsys.readouterr().out) == (not arguments)
    assert run("export", "hf", tmp_path / "ours", tmp_path / "exact", "--dtype=float32") == 0
    assert run("import", "hf", models.T5_1_0, tmp_path / "float32") == 0
    assert run("export", "hf", tmp_path / "float32", tmp_path / "back") == 0
    assert "rounded" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("trained", "said"), [("prefix_lm", True), ("causal_lm", False), (None, False)]
)
def test_an_export_says_that_transformers_does_not_read_as_a_prefix_lm(
    tmp_path: Path, capsys, trained, said
):
    config = hf.open_model(models.GOLDENS / "decoder" / "qwen2" / "model").config
    params = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), base.abstract_params(config))
    data = {} if trained is None else {"data": {"layout": trained}}
    trained_as = {"model": description.describe(config), **data}
    saving.save(tmp_path / "run", 3, {"params": params}, {"config": trained_as})
    assert run("export", "hf", tmp_path / "run", tmp_path / "out") == 0
    assert ("--gin.LAYOUT=causal_lm" in capsys.readouterr().out) == said


def test_hostile_models_write_nothing(flan: Path, tmp_path: Path, capsys):
    arrays = models.tensors(flan)
    arrays["encoder.final_layer_norm.weight"][0] = np.nan  # the last one that is read
    for path in flan.glob("model*"):
        path.unlink()
    models.write(flan, arrays)
    before = sorted(tmp_path.iterdir())
    assert run("import", "hf", flan, tmp_path / "ours") == 1
    assert "holds a NaN" in capsys.readouterr().err
    assert sorted(tmp_path.iterdir()) == before


def test_mistakes_are_explained(flan: Path, tmp_path: Path, capsys):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").write_text("mine")
    for arguments, reason in (
        (("import", "hf", flan, tmp_path / "full"), "already exists"),
        (("import", "hf", tmp_path / "nowhere", tmp_path / "ours"), "neither a folder nor"),
        (("import", "hf", flan, tmp_path / "ours", "--step=-1"), "must not be negative"),
        (("export", "hf", flan, tmp_path / "back"), "No checkpoint at"),
        *(
            (("export", "hf", flan, tmp_path / "back", f"--max_shard_size={size}"), f"={size} must")
            for size in ("-1.0", "0.0", "inf", "nan")
        ),
    ):
        assert run(*arguments) == 1
        assert reason in capsys.readouterr().err
    assert run("import", "pickle", flan, tmp_path / "ours") == 2
    assert not (tmp_path / "ours").exists()
    assert not (tmp_path / "back").exists()


def test_a_checkpoint_of_an_unknown_model_is_refused(tmp_path: Path, capsys):
    saving.save(tmp_path, 1, {"params": {"x": np.zeros(1, np.float32)}}, {"config": {"model": {}}})
    assert run("export", "hf", tmp_path, tmp_path / "back") == 1
    assert "does not say which model it holds" in capsys.readouterr().err


def test_parameters_that_the_model_lacks_are_not_dropped(flan: Path, tmp_path: Path, capsys):
    config = hf.open_model(flan).config
    params = hf.load_params(flan, abstract_sharded_params(config, sharding.make_mesh(
        sharding.MeshConfig(fsdp=8))))  # fmt: skip
    described = description.describe(config) | {"tied_logits": True}
    saving.save(tmp_path / "run", 1, {"params": params}, {"config": {"model": described}})
    assert run("export", "hf", tmp_path / "run", tmp_path / "back") == 1
    assert "'params/head', which its model does not have" in capsys.readouterr().err


def test_config_json_of_an_import_is_kept_as_it_was(flan: Path, tmp_path: Path):
    models.edit_config(flan, task_specific_params={"a": [1]}, n_positions=512)
    assert run("import", "hf", flan, tmp_path / "ours") == 0
    kept = tmp_path / "ours" / "hf" / "config.json"
    assert kept.read_bytes() == (flan / "config.json").read_bytes()
    assert run("export", "hf", tmp_path / "ours", tmp_path / "back") == 0
    written = hf_folder.read_config(tmp_path / "back")
    assert written["task_specific_params"] == {"a": [1]}
    assert set(json.loads(kept.read_text())) <= set(written)
    assert isinstance(hf.open_model(tmp_path / "back").config, T5Config)
    assert tree.flatten(written)["dtype"] == "bfloat16"


@pytest.mark.parametrize("preset", ["gemma3_1b", "llama3_1_8b", "t5_1_0_small"])
def test_the_gin_file_of_any_model_means_that_model(preset: str, tmp_path: Path):
    def model(file: str) -> Any:
        files = [file, "data/ul2r_stdlib.gin", "optim/adafactor_ul2r.gin", "runs/continue.gin"]
        macros = [("MODEL_DIR", "x"), ("INITIAL_CHECKPOINT_PATH", "y")]
        macros += [("TRAIN_STEPS_RELATIVE", "1")]
        config = gin_config.load(files, macros, roots=(prepare_missing, train), search_paths=[])
        return config.arguments(train)["model"]

    expected = model(f"models/{preset}.gin")
    (tmp_path / "model.gin").write_text(imported.gin_text(expected, "here"))
    # How it is computed is the run's.
    expected = dataclasses.replace(expected, remat=type(expected).remat)
    assert model(str(tmp_path / "model.gin")) == expected


@pytest.mark.parametrize(
    ("recipe", "preset"), [("opt_iml", "qwen3_0_6b"), ("t5_ul2r", "t5_1_0_small")]
)
def test_the_gin_file_replaces_the_model_of_a_recipe(recipe: str, preset: str, tmp_path: Path):
    def model(*files: str) -> Any:
        macros = [("MODEL_DIR", "x"), ("INITIAL_CHECKPOINT_PATH", "y"), ("DROPOUT_RATE", "0.0")]
        config = gin_config.load(files, macros, roots=(prepare_missing, train))
        return config.arguments(train)["model"]

    data = ["data/ul2r_own.gin", "optim/adafactor_ul2r.gin", "runs/continue.gin"]
    data = [f"models/{preset}.gin", *data]
    (tmp_path / "values.gin").write_text("TRAIN_STEPS_RELATIVE = 1\n")
    expected = model(*data, str(tmp_path / "values.gin"))
    (tmp_path / "model.gin").write_text(imported.gin_text(expected, "here"))
    remat = model(f"recipes/{recipe}.gin").remat
    expected = dataclasses.replace(expected, remat=remat)
    assert model(f"recipes/{recipe}.gin", str(tmp_path / "model.gin")) == expected
