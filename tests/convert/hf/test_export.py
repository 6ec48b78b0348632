"""Models written for Transformers in other dtypes, and what these cannot hold."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from tests.convert import models
from ul2tune import atomic, tree
from ul2tune.convert.hf import export as export_lib
from ul2tune.convert.hf import models as hf
from ul2tune.models import base

NORM = "decoder.final_layer_norm.weight"


def load(folder: Path) -> Any:
    source = hf.open_model(folder)
    return hf.load_params(source, base.abstract_params(source.config))


def write(tmp_path: Path, export: export_lib.Export, params: Any) -> Path:
    flat, total = tree.flatten(params), []
    with atomic.new_folder(tmp_path / "out") as folder:
        plan = export_lib.plan_export(export)
        export_lib.write_model(folder, plan, lambda path: np.asarray(flat[path]), total.append)
    assert sum(total) == hf.open_model(tmp_path / "out").num_bytes
    return tmp_path / "out"


def test_exports_in_other_dtypes_round_to_nearest(tmp_path: Path):
    source = hf.open_model(models.T5_1_0)
    export = export_lib.Export(config=source.config, like={}, dtypes={NORM: "F32"}, dtype="BF16")
    out = write(tmp_path, export, load(models.T5_1_0))
    before, after = models.tensors(models.T5_1_0), models.tensors(out)
    assert json.loads((out / "config.json").read_text())["dtype"] == "bfloat16"
    for name, x in after.items():
        dtype = np.float32 if name == NORM else ml_dtypes.bfloat16
        np.testing.assert_array_equal(x, before[name].astype(dtype))


def test_numbers_that_a_dtype_cannot_hold_are_not_written(tmp_path: Path):
    source = hf.open_model(models.T5_1_0)
    params = load(models.T5_1_0)
    params["decoder"]["final_norm"] = params["decoder"]["final_norm"] + 1e5
    export = export_lib.Export(config=source.config, like={}, dtypes={}, dtype="F16")
    with pytest.raises(ValueError, match=f"Tensor '{NORM}' as float16"):
        write(tmp_path, export, params)
    assert not list(tmp_path.iterdir())
