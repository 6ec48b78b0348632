"""Vocabularies of tokenizer.json files against the package `tokenizers`."""

from __future__ import annotations

import json
import pickle
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st

from tests import tiny_tokenizers
from ul2tune.data import rng, roundtrip, vocab
from ul2tune.data.ragged import Ragged
from ul2tune.data.ul2 import UL2Noise, preset
from ul2tune.data.vocab_extended import extend
from ul2tune.data.vocab_tokenizer_json import with_sentinels

# folder -> eos, pad, bos, unk
SPECIALS = {
    "qwen": (330, 330, None, None),
    "opt": (2, 1, 2, 2),
    "llama": (2, 2, 1, 0),
    "gemma": (1, 0, 2, 3),
}
TEXTS = ("Wait! ok", "  two  spaces\n\n\ttab ", "!", "!!x", "é 数 🙂\u200d", "", " ", "a\0b")


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("tokenizers")
    return {name: make(root / name) for name, make in tiny_tokenizers.KINDS.items()}


@pytest.mark.parametrize("name", SPECIALS)
def test_ids_are_those_of_the_package_and_text_comes_back(folders, name):
    folder = folders[name]
    vocabulary = vocab.load(folder)
    if name == "opt":
        files = [str(folder / "vocab.json"), str(folder / "merges.txt")]
        theirs = tokenizers.ByteLevelBPETokenizer(*files, add_prefix_space=False)
    else:
        theirs = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
        theirs.no_truncation()
        theirs.no_padding()
    assert vocabulary.size == theirs.get_vocab_size()
    for text in (*TEXTS, *tiny_tokenizers.SENTENCES):
        ids = vocabulary.encode(text)
        assert ids == theirs.encode(text, add_special_tokens=False).ids
        assert vocabulary.decode(ids) == theirs.decode(ids) == text
    report = roundtrip.audit(vocabulary, [*TEXTS, *tiny_tokenizers.SENTENCES])
    assert (report.num_lossy, report.num_unknown) == (0, 0)


@given(text=st.text(max_size=40), name=st.sampled_from(sorted(SPECIALS)))
@settings(deadline=None, max_examples=150, derandomize=True)
def test_every_text_comes_back(folders, text, name):
    vocabulary = vocab.load(folders[name])
    for words in (text, f"{text}</s><eos><|endoftext|><unused1><s>"):
        ids = vocabulary.encode(words)
        assert vocabulary.decode([*ids, vocabulary.info.eos_id, *ids]) == words
        assert vocabulary.info.eos_id not in ids


@pytest.mark.parametrize("name", SPECIALS)
def test_special_ids_come_from_the_folder(folders, name):
    vocabulary = vocab.load(folders[name])
    found = (vocabulary.eos_id, vocabulary.pad_id, vocabulary.bos_id, vocabulary.unk_id)
    assert found == SPECIALS[name]
    info = vocabulary.info
    assert (info.eos_id, info.pad_id, info.num_sentinels) == (*SPECIALS[name][:2], 0)
    assert info.zero_is_text == (name != "gemma")
    assert vocabulary.rows % 128 == 0
    assert vocabulary.rows >= vocabulary.size == info.vocab_size


def test_special_tokens_in_a_text_are_characters_unless_asked(folders):
    vocabulary = vocab.load(folders["qwen"])
    assert vocabulary.encode("!<|im_end|>!", specials=True) == [0, 331, 0]
    assert 331 not in vocabulary.encode("!<|im_end|>!")
    assert vocabulary.decode([0, 331, 0, 330, 0]) == "!<|im_end|>!"
    assert vocabulary.decode_pieces([0, 331, 999]) == ["!", "<|im_end|>", "<row_999>"]


@pytest.mark.parametrize("name", SPECIALS)
def test_descriptions_round_trip_and_say_what_changes(folders, name, tmp_path):
    vocabulary = with_sentinels(vocab.load(folders[name]), 5)
    loaded = vocab.load(json.loads(json.dumps(vocabulary.to_json())))
    assert loaded.to_json() == vocabulary.to_json()
    copy = pickle.loads(pickle.dumps(vocabulary))
    assert copy.encode("Wait!") == loaded.encode("Wait!") == vocabulary.encode("Wait!")
    # Files that a description names lie beside it, wherever that moves.
    moved = shutil.copytree(folders[name], tmp_path / "moved")
    (moved / "vocabulary.json").write_text(
        json.dumps({"kind": "tokenizer_json", "file": Path(vocabulary.file).name, "extra_ids": 5})
    )
    for place in (moved, moved / "vocabulary.json", str(moved)):
        assert vocab.load(place).encode("Wait!") == vocabulary.encode("Wait!")
    plain = vocab.load(Path(vocabulary.file))
    prints = {v.fingerprint for v in (vocabulary, plain, vocab.load(moved))}
    assert len(prints) == 3
    found = Path(vocabulary.file).name
    text = (moved / found).read_text(encoding="utf-8")
    (moved / found).write_text(text.replace('"!"', '"\\u00a7"'), encoding="utf-8")
    with pytest.raises(ValueError, match="not the vocabulary this data was prepared with"):
        vocab.load(vocabulary.to_json() | {"file": str(moved / found)}).encode("a")


def test_sentinels_and_modes_above_the_tokenizer(folders):
    base = vocab.load(folders["qwen"])
    vocabulary = with_sentinels(base, 10)
    assert (base.size, vocabulary.size, vocabulary.info.vocab_size) == (332, 345, 342)
    assert vocabulary.info.sentinels.tolist() == [*range(341, 331, -1)]
    assert vocabulary.info.mode_ids == {"R": (342,), "S": (343,), "X": (344,)}
    ids = vocabulary.encode("[S] Wait!<extra_id_0> ok", specials=True)
    assert (ids[0], 341 in ids) == (343, True)
    assert vocabulary.decode(ids) == "[S] Wait!<extra_id_0> ok"
    llama = extend(
        vocab.load(folders["llama"]), ("\n",)
    )  # a space before every part, dropped again
    assert llama.decode(llama.encode("a\nb\n c")) == "a\nb\n c"
    more = extend(vocabulary, ("\n",))
    assert (more.size, more.eos_id, more.info) == (346, 330, vocabulary.info)
    assert more.decode([*more.encode("!\n!"), 341, 330]) == "!\n!<extra_id_0>"


def test_reserved_tokens_serve_as_sentinels_and_modes(folders):
    base = vocab.load(folders["gemma"])
    vocabulary = with_sentinels(base, 5, reserved="<unused{}>")
    first = vocabulary.info.sentinels[0]
    assert (vocabulary.size, vocabulary.info.vocab_size) == (base.size, base.size)
    assert vocabulary.info.sentinels.tolist() == [first + k for k in range(5)]
    assert vocabulary.info.mode_ids == {m: (first + 5 + i,) for i, m in enumerate("RSX")}
    assert base.decode([first]) == "<unused0>"
    assert vocabulary.decode([first + 1, first + 6]) == "<extra_id_1>[S]"
    assert vocabulary.encode("<extra_id_1>[S]", specials=True) == [first + 1, first + 6]
    # Text that looks like one is text.
    ids = vocabulary.encode("a <unused0> b")
    assert first not in ids
    assert vocabulary.decode(ids) == "a <unused0> b"
    described = vocabulary.to_json() | {"reserved": "<unused{}>"}
    assert vocab.load(described).fingerprint == vocabulary.fingerprint
    with pytest.raises(ValueError, match="no token '<unused8>' to reserve"):
        with_sentinels(base, 6, reserved="<unused{}>")
    with pytest.raises(ValueError, match="5 different reserved tokens for 9"):
        with_sentinels(base, 6, reserved=[f"<unused{i}>" for i in range(5)])
    with pytest.raises(ValueError, match="it is a special one"):
        with_sentinels(base, 1, (), reserved=["<eos>"])


@pytest.mark.parametrize("reserved", [None, "<unused{}>"])
def test_denoising_with_either_kind_of_sentinels(folders, reserved):
    vocabulary = with_sentinels(vocab.load(folders["gemma"]), 5, reserved=reserved)
    noise = UL2Noise(preset("ul2r"), vocabulary.info)
    text = np.array(vocabulary.encode(tiny_tokenizers.SENTENCES[0]), np.int32)[:16]
    keys = rng.fold_in(3, np.arange(40))
    segments = Ragged.from_rows([text] * 40)
    denoiser = noise.draw(keys)
    inputs, targets = noise.apply(segments, denoiser, keys)
    allowed = {*vocabulary.info.sentinels.tolist(), *sum(vocabulary.info.mode_ids.values(), ())}
    for i in range(40):
        assert noise.undo(inputs[i], targets[i], int(denoiser[i])).tolist() == text.tolist()
        assert {*inputs[i], *targets[i]} <= {*text.tolist(), *allowed, vocabulary.eos_id}
        assert inputs[i][-1] == targets[i][-1] == vocabulary.eos_id
    spelled = vocabulary.decode(inputs[int(np.flatnonzero(denoiser == 0)[0])])
    assert spelled.startswith("[")
    assert "<extra_id_0>" in spelled


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, "holds no tokenizer"),
        ({"vocab.json": {"a": 0}}, "holds no tokenizer"),
        ({"tokenizer.json": {"version": "1.0"}}, "no model with a vocab"),
        ({"tokenizer.json": []}, "must be a JSON object"),
        ({"tokenizer.json": {"model": {"vocab": {"a": "0"}}}}, "must map texts to ids"),
        (
            {"tokenizer.json": {"model": {"vocab": {"a": 0}}, "added_tokens": [{"id": "1"}]}},
            "objects with id and content",
        ),
        ({"tokenizer.json": {"model": {"vocab": {"a": 0}}}}, "which token ends a text"),
        (
            {
                "tokenizer.json": {"model": {"vocab": {"a": 0}}},
                "config.json": {"eos_token_id": 7},
            },
            "has 1 ids, so 7 is none of them",
        ),
    ],
)
def test_broken_folders_are_refused(tmp_path, files, message):
    for name, content in files.items():
        (tmp_path / name).write_text(json.dumps(content))
    with pytest.raises(ValueError, match=message):
        vocab.load(tmp_path)


def test_other_folders(tmp_path):
    (tmp_path / "tokenizer_config.json").write_text('{"tokenizer_class": "ByT5Tokenizer"}')
    assert vocab.load(tmp_path).kind == "bytes"
    (tmp_path / "tokenizer_config.json").write_text('{"extra_ids": 300}')
    (tmp_path / "tokenizer.json").write_text("{}")
    (tmp_path / "spiece.model").write_bytes(b"")
    t5 = vocab.load(tmp_path)
    assert (t5.kind, t5.extra_ids) == ("sentencepiece", 300)


def test_sizes_need_no_package_and_text_says_so(folders, monkeypatch):
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    vocabulary = vocab.load(folders["llama"])
    assert (vocabulary.size, vocabulary.info.eos_id) == (400, 2)
    with pytest.raises(ValueError, match="needs the package `tokenizers`"):
        vocabulary.encode("a")


def test_models_with_fewer_rows_than_ids(folders):
    """Gemma 3's text models have no row for the tokenizer's image token."""
    file = str(folders["qwen"] / "tokenizer.json")
    small = vocab.load({"kind": "tokenizer_json", "file": file, "base_size": 331})
    assert small.size == 331
    with pytest.raises(ValueError, match=r"'<\|im_end\|>' \(id 331\), which the model has no row"):
        small.encode("<|im_end|>", specials=True)
