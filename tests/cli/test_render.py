"""How batches are shown: boundaries, what carries loss, words."""

from __future__ import annotations

import numpy as np

from ul2tune.cli import render
from ul2tune.data import vocab

VOCABULARY = vocab.load("bytes")
NAMES = ("task/R1", "task/S")


def ids(words: str) -> list[int]:
    return VOCABULARY.encode(words, specials=True)


def grid(*rows: list[int]) -> np.ndarray:
    return np.array(rows, np.int32)


def test_packed_encoder_decoder_row():
    batch = {
        "encoder_input_tokens": grid([*ids("abc"), 1, *ids("de"), 1, 0]),
        "encoder_segment_ids": grid([1, 1, 1, 1, 2, 2, 2, 0]),
        "decoder_target_tokens": grid([*ids("x"), 1, *ids("yz"), 1, 0]),
        "decoder_segment_ids": grid([1, 1, 2, 2, 2, 0]),
        "decoder_loss_weights": grid([1, 1, 1, 1, 1, 0]),
        "decoder_source_ids": grid([2, 2, 1, 1, 1, 0]),
    }
    first, second = render.segments(batch, 0, NAMES)
    assert (first.number, first.source, second.source) == (1, "task/S", "task/R1")
    assert render.text(first, VOCABULARY) == ("abc</s>", "x</s>")
    assert render.text(second, VOCABULARY) == ("de</s>", "yz</s>")
    assert render.bar(batch["encoder_segment_ids"][0], 8) == "|1111|222|.|"


def test_prefix_lm_row_marks_what_carries_no_loss():
    batch = {
        "decoder_target_tokens": grid([*ids("ask"), *ids("say"), 1, 0]),
        "decoder_loss_weights": grid([0, 0, 0, 1, 1, 1, 1, 0]),
    }
    (segment,) = render.segments(batch, 0, NAMES)
    assert segment.inputs_L.size == 0
    assert render.text(segment, VOCABULARY) == ("", "⟦ask⟧ say</s>")
    assert render.segment_ids(batch, "decoder", 0).tolist() == [1] * 7 + [0]


def test_specials_are_spelled_out():
    tokens = np.array([*ids("[S]a<extra_id_0>"), 1, 0, 0], np.int32)
    assert render.spell(tokens, VOCABULARY) == "[S]a<extra_id_0></s>"


def test_long_text_is_cut_in_the_middle():
    shown = render.shorten("a" * 50 + "\n" + "b" * 50, width=10, lines=4)
    assert shown.startswith("aaaaaaaaaa\n")
    assert " … " in shown.replace("\n", "")
    assert max(map(len, shown.splitlines())) == 10
    assert render.shorten("x\ny", width=10) == "x↵y"
