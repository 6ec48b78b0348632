"""T5X's Orbax form: what is printed of sound files, what is said of damaged ones."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from ul2tune.convert.t5x import orbax_form

LEAVES = {"target/a/kernel": np.arange(6.0, dtype=np.float32).reshape(2, 3)}


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    return Path(orbax_form.write(str(tmp_path / "theirs"), 6, LEAVES.items()))


def test_a_sound_checkpoint_is_read_without_a_warning(checkpoint: Path, caplog):
    opened = orbax_form.open_checkpoint(str(checkpoint))
    assert set(opened.names) == {"state/step", *LEAVES}
    for name, value in LEAVES.items():
        np.testing.assert_array_equal(opened.read(name), value)
    assert not caplog.records


def test_damage_is_named_once(checkpoint: Path, caplog):
    metadata = checkpoint / orbax_form.ITEM / "_METADATA"
    metadata.write_text(metadata.read_text()[:60])
    with pytest.raises(ValueError, match="cannot be read by Orbax: Unterminated string"):
        orbax_form.open_checkpoint(str(checkpoint))
    assert not caplog.records
