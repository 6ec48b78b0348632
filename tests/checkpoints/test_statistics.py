"""Norms and differences against NumPy, over blocks."""

from __future__ import annotations

import math

import numpy as np
import pytest

from ul2tune.checkpoints import statistics

RNG = np.random.default_rng(0)


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    monkeypatch.setattr(statistics, "_BLOCK", 100)


def test_of_one():
    x = RNG.standard_normal((7, 61)).astype(np.float32)
    found = statistics.statistics(x)
    assert found.size == x.size
    assert found.rms == pytest.approx(np.sqrt(np.mean(x.astype(np.float64) ** 2)))
    assert found.largest == np.abs(x).max()
    assert found.not_finite == 0
    x[3, 5], x[6, 0], x[0, 0] = np.nan, np.inf, 0
    spoilt = statistics.statistics(x)
    finite = x[np.isfinite(x)].astype(np.float64)
    assert spoilt.not_finite == 2
    assert spoilt.rms == pytest.approx(np.sqrt(np.mean(finite**2)))


def test_large_and_empty_ones():
    assert statistics.statistics(np.full(9, 1e30, np.float32)).rms == pytest.approx(1e30)
    assert statistics.statistics(np.zeros((0, 3))).rms == 0.0
    assert statistics.statistics(np.asarray(-3, np.int32)).largest == 3.0


def test_of_two():
    a, b = RNG.standard_normal((2, 11, 31)).astype(np.float32)
    found = statistics.difference(a, b)
    assert found.relative == pytest.approx(np.linalg.norm(b - a) / np.linalg.norm(a), rel=1e-6)
    assert found.largest == pytest.approx(np.abs(b - a).max())
    assert not found.equal
    assert statistics.difference(a, a.copy()).equal
    assert statistics.difference(a, a).relative == 0.0
    b[10, 30] = np.nan
    spoilt = statistics.difference(a, b)
    assert math.isnan(spoilt.relative)
    assert not spoilt.equal
    assert statistics.difference(np.zeros(3), np.ones(3)).relative == math.inf
