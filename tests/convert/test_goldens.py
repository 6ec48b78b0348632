"""Every recorded model of Transformers: import, logits, gradients, greedy tokens, round trip.

The goldens are ours: random models, written by tools/parity/make_goldens.py.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tools.parity import check

GOLDENS = Path(__file__).with_name("goldens")
CASES = sorted(path.parent for path in GOLDENS.glob("*/*/facts.json"))


@pytest.mark.parametrize("folder", CASES, ids=lambda path: f"{path.parent.name}-{path.name}")
def test_imported_model_answers_as_transformers_does(folder: Path, tmp_path: Path):
    results = check.check(folder, tmp_path / "exported")
    assert [result for result in results if not result.ok] == []
    assert {"logits", "loss", "greedy", "round trip of tensors"} <= {r.what for r in results}


@pytest.mark.parametrize("family", sorted({path.parent for path in CASES}), ids=lambda p: p.name)
def test_goldens_stay_small(family: Path):
    assert sum(path.stat().st_size for path in family.rglob("*") if path.is_file()) <= 300_000
