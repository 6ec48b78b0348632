"""Text cut at a number of tokens, with characters that T5's vocabulary lacks in it."""

from __future__ import annotations

import dataclasses

import pytest

from ul2tune.data import vocab, vocab_extended
from ul2tune.instructions import metaicl, tk_instruct
from ul2tune.instructions.records import Record
from ul2tune.instructions.tk_instruct import TkInstruct
from ul2tune.instructions.tokenizer import cut_text

MODEL = "data/tokenizer/sentencepiece_cc_all.32000.100extra-sentencepiece.model"
RECORD = Record(id="r", task="t", instruction="x", input="if {a} then b or c", targets=("y",))


@pytest.fixture(scope="module")
def t5(shared):
    return vocab.load(shared / MODEL)


def test_unknown_characters_stay(t5):
    text = "a < b and {x} ~ 日本 or more"
    assert t5.decode(t5.encode(text)) != text
    assert cut_text(text, t5, 7) == "a < b and"
    assert cut_text(text, t5, 99) is None
    assert cut_text("a < b", vocab_extended.extend(t5, ("\n",)), 6) == "a < b"


@pytest.mark.parametrize("hard", ["<\u200b½", "~\ufeff{", "^\x01～"])
def test_whatever_the_tokenizer_normalizes(t5, hard):
    """The first half's ids are the same, whether the rest is there or not."""
    text = f"a {hard} b and then some more words"
    ids = t5.encode(text)
    for tokens in range(1, len(ids) + 1):
        cut = cut_text(text, t5, tokens)
        assert cut is not None
        assert "⁇" not in cut
        assert t5.encode(cut) in (ids[:tokens], ids[: tokens - 1])  # a space at the end goes


def test_a_space_alone_and_other_tokenizers(t5):
    assert cut_text("any text", t5, 0) == ""
    assert cut_text("abc", vocab.load("bytes"), 2) == "ab"
    assert cut_text("abc", vocab.load("bytes"), 4) is None


def test_metaicl_keeps_unknown_characters_of_a_cut_input(t5):
    record = dataclasses.replace(RECORD, input="{a} " * 30)
    config = metaicl.MetaICL(example_tokens=13)
    rendered = metaicl.render(record, 0, config=config, tokenizer=t5)
    assert rendered.truncated
    assert rendered.inputs == "{a} {a} \n"
    assert t5.encode(rendered.inputs) == t5.encode(record.input)[:8]


def test_tk_instruct_drops_them_from_a_prompt_that_is_cut(t5):
    encoding = TkInstruct(positive=0, definition=False, max_tokens=19)
    rendered = tk_instruct.render(RECORD, 0, encodings=(encoding,), tokenizer=t5)
    assert rendered.truncated
    assert rendered.inputs.endswith("Input: if a then b")
    whole = tk_instruct.render(RECORD, 0, encodings=(TkInstruct(positive=0),), tokenizer=t5)
    assert "if {a} then" in whole.inputs
