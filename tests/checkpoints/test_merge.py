"""Sums of checkpoints against NumPy; what does not belong together is refused."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.convert import t5x_examples
from ul2tune.checkpoints import description, layout, merge
from ul2tune.checkpoints.merge import Merge, combination
from ul2tune.checkpoints.restore import CorruptCheckpointError
from ul2tune.checkpoints.stored import StoredArrays
from ul2tune.checkpoints.streaming import StepWriter

MODEL = t5x_examples.T5_1_1


def write(folder: Path, arrays: dict[str, np.ndarray], model: Any = MODEL, ema: Any = None) -> Path:
    writer = StepWriter(folder)
    for prefix, values in (("params", arrays), ("ema", ema or {})):
        for path, value in values.items():
            writer.array(f"{prefix}/{path}", value.shape).append(value)
    data = {"layout": "encoder_decoder"}
    writer.finish({"config": {"model": description.describe(model), "data": data}})
    return folder


def params(seed: int) -> dict[str, np.ndarray]:
    return t5x_examples.flat_params(MODEL, seed)


@pytest.fixture(scope="module")
def three(tmp_path_factory) -> list[Path]:
    root = tmp_path_factory.mktemp("three")
    return [write(root / str(seed), params(seed)) for seed in range(3)]


def merged(terms) -> dict[str, np.ndarray]:
    return dict(Merge(terms).arrays())


@pytest.mark.parametrize("block", [5, 2**22])
def test_average_interpolation_and_task_vectors(three, monkeypatch, block: int):
    monkeypatch.setattr(merge, "_BLOCK", block)
    cases = {
        "average": (combination(three), (1 / 3, 1 / 3, 1 / 3)),
        "interpolation": (combination(three[:2], (0.25, 0.75)), (0.25, 0.75)),
        "extrapolation": (combination(three[:2], (-0.5, 1.5)), (-0.5, 1.5)),
        "vectors": (combination(three[1:], (0.4, -0.3), three[0]), (0.9, 0.4, -0.3)),
        "whole vectors": (combination(three[1:], base=three[0]), (-1.0, 1.0, 1.0)),
    }
    for name, (terms, coefficients) in cases.items():
        assert [t.coefficient for t in terms] == pytest.approx(coefficients), name
        found = merged(terms)
        for path in found:
            pairs = zip(coefficients, range(3))
            expected = sum(c * params(seed)[path].astype(np.float64) for c, seed in pairs)
            np.testing.assert_allclose(found[path], expected, rtol=1e-5, atol=1e-6, err_msg=path)
            assert found[path].dtype == np.float32


def test_the_ends_are_exact(three):
    """One and zero give a checkpoint back bit for bit; so does its own task vector."""
    for terms in (combination(three[:2], (0.0, 1.0)), combination([three[1]], base=three[0])):
        for path, value in merged(terms).items():
            np.testing.assert_array_equal(value, params(1)[path])


def test_averages_that_runs_kept(tmp_path):
    """What has no average was frozen and stands for itself."""
    last, average = params(0), params(1)
    part = {path: x for path, x in average.items() if path.startswith("decoder/")}
    step = write(tmp_path / "4", last, ema=part)
    for path, value in merged(combination([step], ema=True)).items():
        np.testing.assert_array_equal(value, (average if path in part else last)[path])
    plain = write(tmp_path / "5", last)
    with pytest.raises(ValueError, match="holds no average"):
        Merge(combination([step, plain], ema=True))


@pytest.mark.parametrize(
    ("weights", "base", "message"),
    [
        ((0.5, 0.6), None, "sum to 1.1, not 1"),
        ((1.0,), None, "1 weights for 2 checkpoints"),
        ((np.nan, 0.5), None, "must be finite"),
    ],
)
def test_weights_are_checked(three, weights, base, message):
    with pytest.raises(ValueError, match=message):
        combination(three[:2], weights, base)


def test_other_models_are_refused(three, tmp_path):
    def refuse(other: Path, message: str) -> None:
        for pair in ([three[0], other], [other, three[0]]):
            with pytest.raises(ValueError, match=message):
                Merge(combination(pair))

    arrays = params(0)
    relu = dataclasses.replace(MODEL, activation="silu_gated")
    refuse(write(tmp_path / "1", arrays, relu), "trained with activation = ")
    free = dataclasses.replace(MODEL, remat="full", dropout_rate=0.3)
    Merge(combination([three[0], write(tmp_path / "2", arrays, free)]))
    fewer = {path: x for path, x in arrays.items() if path != "head"}
    refuse(write(tmp_path / "3", fewer), "the parameter 'head' and")
    longer = {**arrays, "head": np.zeros((25, 8), np.float32)}
    refuse(write(tmp_path / "4", longer), r"'head' has shape")


def test_numbers_that_are_none_are_refused(three, tmp_path):
    arrays = params(0)
    arrays["head"] = arrays["head"].copy()
    arrays["head"][3, 3] = np.inf
    spoilt = write(tmp_path / "1", arrays)
    with pytest.raises(ValueError, match="1: head holds a NaN or an infinity"):
        merged(combination([three[0], spoilt]))
    huge = write(tmp_path / "2", {p: np.full_like(x, 3e38) for p, x in arrays.items()})
    with pytest.raises(ValueError, match="beyond float32"):
        merged(combination([three[0], huge], (-1.0, 2.0)))


def test_damage_is_noticed(tmp_path):
    step = write(tmp_path / "1", params(0))
    chunk = step / layout.STATE / "params.head" / "0.0"
    other = step / layout.STATE / "params.token_embedding" / "0.0"
    chunk.write_bytes(other.read_bytes())
    with pytest.raises(CorruptCheckpointError, match="damaged at 'params/head'"):
        merged(combination([step]))


def test_stored_arrays_say_what_is_there(three):
    arrays = StoredArrays(three[0])
    assert arrays.shapes["params/head"] == (24, 8)
    assert arrays.dtypes["step"] == "int32"
    assert arrays.read("step") == 0
    assert arrays.partitions() == {}
    with pytest.raises(ValueError, match="holds no array 'params/heads'"):
        arrays.read("params/heads")
    with pytest.raises(ValueError, match="this configuration wants"):
        arrays.read("params/head", (24, 9))
