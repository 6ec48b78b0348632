"""Added tokens: nothing lost, no id moved."""

from __future__ import annotations

import json
import pickle

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ul2tune.data import roundtrip, vocab
from ul2tune.data.vocab import ByteVocabulary
from ul2tune.data.vocab_extended import T5_LOSSES, ExtendedVocabulary, extend

T5_MODEL = "data/tokenizer/sentencepiece_cc_all.32000.100extra-sentencepiece.model"
BYTES = ByteVocabulary(extra_ids=2, modes=("R",))


def test_added_ids_follow_all_others():
    vocabulary = extend(BYTES, ("<=", "<", "\n"))
    assert (vocabulary.base_size, vocabulary.extra_ids, vocabulary.modes) == (259, 2, ("R",))
    assert vocabulary.info == BYTES.info
    assert (BYTES.size, vocabulary.size, vocabulary.rows) == (262, 265, 384)
    a = BYTES.encode("a")
    # The longest that matches; sentinels and modes as before.
    assert vocabulary.encode("a<=a<a") == [*a, 262, *a, 263, *a]
    assert vocabulary.encode("<extra_id_0>\n[R]", specials=True) == [260, 264, 261]
    assert vocabulary.encode("<extra_id_0>")[0] == 263
    assert vocabulary.decode([*a, 262, 0, 260, 264, 1, *a]) == "a<=<extra_id_0>\n"
    assert vocabulary.decode_pieces([262, 264, 300]) == ["<=", "\n", "<row_300>"]
    assert vocabulary.encode("plain") == BYTES.encode("plain")


def test_descriptions_round_trip(tmp_path):
    vocabulary = extend(BYTES)
    assert vocabulary.added == T5_LOSSES
    loaded = vocab.load(vocabulary.to_json())
    assert loaded.to_json() == vocabulary.to_json()
    assert loaded.encode("a\n{b") == vocabulary.encode("a\n{b")
    assert pickle.loads(pickle.dumps(loaded)).fingerprint == vocabulary.fingerprint
    (tmp_path / "v.json").write_text(
        json.dumps({"kind": "extended", "base": {"kind": "bytes"}, "added": ["\n"]})
    )
    from_file = vocab.load(tmp_path / "v.json")
    assert from_file.encode("\n") == [387]
    prints = {
        v.fingerprint
        for v in (
            BYTES,
            vocabulary,
            from_file,
            extend(BYTES, ("a", "b")),
            extend(BYTES, ("b", "a")),
        )
    }
    assert len(prints) == 5


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: extend(BYTES, ()), "must be texts that are not empty"),
        (lambda: extend(BYTES, ("a", "")), "must be texts that are not empty"),
        (lambda: extend(BYTES, ("a", "a")), "must be different"),
        (lambda: extend(extend(BYTES)), "extend once"),
        (lambda: vocab.load({"kind": "extended", "added": ["a"]}), "Unknown vocabulary kind None"),
        (
            lambda: vocab.load({**extend(BYTES).to_json(), "extra_ids": 7}),
            "the extra_ids of its base",
        ),
        (lambda: vocab.load({**extend(BYTES).to_json(), "modes": ["Q"]}), "the modes of its base"),
        (lambda: vocab.load("nowhere.json"), r"nowhere\.json is not readable JSON"),
    ],
)
def test_wrong_descriptions(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@settings(deadline=None, max_examples=100, derandomize=True)
@given(st.text(alphabet="ab <=\n{}\t"))
def test_a_vocabulary_that_loses_nothing_still_loses_nothing(text):
    vocabulary = extend(BYTES)
    ids = vocabulary.encode(text)
    assert vocabulary.decode(ids) == text
    assert ids.count(vocabulary.base.size) == text.count("\n")


@pytest.fixture(scope="module")
def t5(shared) -> ExtendedVocabulary:
    return extend(vocab.load(shared / T5_MODEL))


LAYOUTS = (
    "OPTIONS:\n- yes\n- no",
    "def f(x):\n\treturn {1: x}\n    # <b>~^`\\\n",
    "  leading\n trailing  \n \n\n",
    "select a from t where b <= 3 and c < 4 and d<5",
    "<|user|>\nhi {name}<|endoftext|>",
    "{}<> {a} { b }",
)


@pytest.mark.parametrize("text", LAYOUTS)
def test_what_t5_loses_is_kept(t5, text):
    assert t5.base.decode(t5.base.encode(text)) != text
    ids = t5.encode(text)
    assert t5.decode(ids) == text
    assert t5.unk_id not in ids


def test_words_keep_their_pieces_after_an_added_token(t5):
    pieces = t5.decode_pieces(t5.encode("return\nreturn\n return"))
    assert pieces == ["▁return", "\n", "▁return", "\n", "▁", "▁return"]
    assert t5.encode("no loss here") == t5.base.encode("no loss here")
    assert (t5.base.size, t5.rows) == (32104, 32128)


@settings(deadline=None, max_examples=200, derandomize=True)
@given(st.lists(st.sampled_from(["the", "x", "3", "{", "}", "\n", "\t", "<", " <=", "~", "`"])))
def test_any_order_of_words_and_added_tokens_is_kept(t5, parts):
    for text in (" ".join(parts).strip(), "".join(parts), "\n  ".join(parts)):
        assert t5.decode(t5.encode(text)) == text


def test_other_losses_remain_and_are_reported(t5):
    report = roundtrip.audit(t5, ["a\n{b}", "two  spaces", "漢字\n"])
    assert report.num_lossy == 2
    assert report.lost["漢", "⁇"] == 1
