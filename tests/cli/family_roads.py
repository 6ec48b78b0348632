"""Takes families down their two recipes at toy size, from random weights in Transformers' format:
import -> UL2R -> instruction tuning -> export.

    python -m tests.cli.family_roads DATA_DIR OUT FAMILY…

The recipes are the shipped ones, by their own names; only sizes and places are set beside them. In
a process of its own, because one device compiles several times as fast as the tests' eight.
"""

from __future__ import annotations

import dataclasses
import gc
import sys
from pathlib import Path
from typing import Any

import jax
import numpy as np

from tests.cli import golden_configs
from tests.training.one_program import one_program
from ul2tune import tree
from ul2tune.checkpoints import description, initialize
from ul2tune.checkpoints.streaming import StepWriter
from ul2tune.cli import gin_config, main
from ul2tune.cli.prepared import prepare_missing
from ul2tune.models import base
from ul2tune.training.run import train

# Rows of the model; those of the checkpoint where the recipe adds the others; ids in it.
ROWS, FEWER, REAL = 1280, 1024, 1000
# The least, but for one thing: two layers where layers differ.
T5_SIZES = {
    "vocab_size": ROWS, "d_model": 16, "d_kv": 8, "d_ff": 32, "num_heads": 2,
    "num_encoder_layers": 1, "num_decoder_layers": 1, "remat": "none", "dtype": "float32",
}  # fmt: skip
DECODER_SIZES = {
    "vocab_size": ROWS, "d_model": 16, "num_layers": 2, "num_heads": 2, "num_kv_heads": 1,
    "head_dim": 8, "d_ff": 32, "max_length": 64, "start_id": 2, "remat": "none", "dtype": "float32",
}  # fmt: skip
T5GEMMA_SIZES = {
    "T5GemmaConfig.vocab_size": ROWS, "T5GemmaConfig.remat": "none",
    "T5GemmaConfig.dtype": "float32",
    **{
        f"{stack}/StackConfig.{field}": value
        for stack in ("encoder", "decoder")
        for field, value in {
            "d_model": 16, "num_layers": 2, "num_heads": 2, "num_kv_heads": 1, "head_dim": 8,
            "d_ff": 32, "max_length": 64, "sliding_window": 8,
        }.items()
    },
}  # fmt: skip
EXTRA = {"opt": {"num_kv_heads": 2}, "llama": {"num_kv_heads": 2}, "gemma": {"sliding_window": 8}}
# Steps of each stage; the imported model claims ten.
STEPS, BEGUN = 2, 10
RUN = {
    "BATCH_SIZE": 8, "TRAIN_STEPS_RELATIVE": STEPS, "EVAL_PERIOD": None,
    "TASK_FEATURE_LENGTHS": {"inputs": 32, "targets": 24},
    "FeedConfig.min_segment_tokens": 8, "FeedConfig.max_segment_tokens": 16,
    "FeedConfig.window": 4, "RunConfig.tensorboard": False, "WARMUP_STEPS": 1,
}  # fmt: skip


def resolve(family: str, stage: str, **macros: Any) -> gin_config.Config:
    """The recipe, made small."""
    recipe = golden_configs.GIN / "recipes" / f"{family}_{stage}.gin"
    model = recipe.read_text("utf-8").split("include '")[1].split("'")[0]
    preset = (golden_configs.GIN / model).read_text("utf-8")
    own: dict[str, Any] = T5GEMMA_SIZES
    if "models import t5gemma" not in preset:
        decoder = "models import decoder" in preset
        name, sizes = ("DecoderConfig", DECODER_SIZES) if decoder else ("T5Config", T5_SIZES)
        sizes = sizes | EXTRA.get(family, {})
        own = {f"{name}.{field}": value for field, value in sizes.items()}
    grows = stage == "ul2r" and "REAL_ROWS" in recipe.read_text("utf-8")
    values = {**own, **RUN, **macros, **({"REAL_ROWS": REAL} if grows else {})}
    return gin_config.load(
        [str(recipe)],
        [(key, repr(str(v) if isinstance(v, Path) else v)) for key, v in values.items()],
        roots=(prepare_missing, train),
        search_paths=[],
    )


def random_params(model: Any) -> dict[str, np.ndarray]:
    """Norms and biases differ from 1 and 0 too."""
    rng = np.random.default_rng(0)
    return {
        path: np.float32("norm" in path) + 0.2 * rng.standard_normal(leaf.shape, np.float32)
        for path, leaf in tree.flatten(base.abstract_params(model)).items()
    }


def transformers_folder(folder: Path, model: Any) -> Path:
    """A folder of Transformers' with random weights."""
    writer = StepWriter(folder / "begun" / "checkpoints" / "0")
    for path, value in random_params(model).items():
        writer.array(f"{initialize.PARAMS}/{path}", value.shape).append(value)
    writer.finish({"config": {"model": description.describe(model)}})
    run("export", "hf", folder / "begun", folder / "random")
    return folder / "random"


def run(*arguments: object) -> None:
    assert main.main([str(argument) for argument in arguments]) == 0


def travel(family: str, data_dir: Path, folder: Path) -> None:
    """Leaves `random`, `imported`, `ul2r`, `tune` and `exported` in the folder."""
    first = resolve(family, "ul2r").arguments(train)
    grows = hasattr(first["init"], "real_rows")
    model = dataclasses.replace(first["model"], vocab_size=FEWER if grows else ROWS)
    run("import", "hf", transformers_folder(folder, model), folder / "imported", f"--step={BEGUN}")
    before = folder / "imported"
    for stage in ("ul2r", "tune"):
        places = {"MODEL_DIR": folder / stage, "INITIAL_CHECKPOINT_PATH": before}
        config = resolve(family, stage, DATA_DIR=data_dir, **places)
        config.call(train)
        before = folder / stage
    run("export", "hf", before, folder / "exported", "--like", folder / "imported")


if __name__ == "__main__":
    gc.set_threshold(100_000, 50, 100)  # as in tests/conftest.py
    jax.config.update("jax_compilation_cache_dir", str(golden_configs.ROOT / ".cache" / "jax"))
    data, out, *names = sys.argv[1:]
    with one_program():  # t5, mt5 and byt5 differ in what their vocabularies are
        for name in names:
            travel(name, Path(data), Path(out) / name)
