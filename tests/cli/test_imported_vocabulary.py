"""An imported model's vocabulary, named by its folder."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests import tiny_tokenizers
from ul2tune.cli import imported_vocabulary
from ul2tune.data import vocab


@pytest.mark.parametrize("name", tiny_tokenizers.KINDS)
@pytest.mark.parametrize("rows", [512, 399])  # spare ones; fewer than some tokenizers have ids
def test_a_decoder_brings_its_own_and_one_for_ul2(name, rows, tmp_path: Path):
    model_dir = tmp_path / "first"
    tiny_tokenizers.KINDS[name](model_dir / "hf")
    own = vocab.load(model_dir / "hf")
    words = imported_vocabulary.write(model_dir, "hf", SimpleNamespace(vocab_size=rows), "x")
    model_dir = shutil.copytree(model_dir, tmp_path / "moved")
    plain, ul2 = vocab.load(model_dir), vocab.load(model_dir / "vocabulary_ul2.json")
    ids = min(rows, own.size)
    assert (plain.size, ul2.base_size, ul2.size) == (ids, ids, ids + 100 + 3)
    assert ul2.info.sentinels[0] == ids + 99
    assert words.endswith(f"REAL_ROWS = {ids}, vocab_size = {512}")
    for vocabulary in (plain, ul2):
        assert vocabulary.encode("Wait! ok") == own.encode("Wait! ok")
        assert vocabulary.info.eos_id == own.info.eos_id
    spelled = "[S] Wait!<extra_id_99>"
    assert (
        ul2.decode(ul2.encode(spelled, specials=True)).replace(" ", "") == "[S]Wait!<extra_id_99>"
    )


def test_what_cannot_be_described_is_said(tmp_path: Path):
    config = SimpleNamespace(vocab_size=512)
    (tmp_path / "hf").mkdir()
    words = imported_vocabulary.write(tmp_path, "hf", config, "its/source")
    assert "(its/source holds no tokenizer: none of " in words
    assert "files to its/source and import it again, or set UL2TUNE_VOCABULARY" in words
    (tmp_path / "hf" / "tokenizer.json").write_text('{"version": "1.0"}')
    words = imported_vocabulary.write(tmp_path, "hf", config, "its/source")
    assert "(its/source/tokenizer.json is not a tokenizer: it has no model with a vocab" in words
    assert str(tmp_path) not in words
    assert [path.name for path in tmp_path.iterdir()] == ["hf"]
    (tmp_path / "hf" / "tokenizer_config.json").write_text('{"tokenizer_class": "ByT5Tokenizer"}')
    imported_vocabulary.write(tmp_path, "hf", config, "its/source")
    assert json.loads((tmp_path / "vocabulary.json").read_text()) == {"kind": "bytes"}
