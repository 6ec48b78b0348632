"""GPT-2's words and merges."""

from __future__ import annotations

import pytest

from ul2tune.metrics import byte_bpe, registry, text
from ul2tune.metrics.byte_bpe import ByteBpe


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("Hello  world's", ["Hello", " ", " world", "'s"]),
        ("it's\n\n  x", ["it", "'s", "\n\n ", " x"]),
        ("\n\n\nx", ["\n\n", "\n", "x"]),
        ("123abc!? ...", ["123", "abc", "!?", " ..."]),
        ("日本語、12½", ["日本語", "、", "12½"]),
        ("x   ", ["x", "   "]),
        ("'sx we'll", ["'s", "x", " we", "'ll"]),
        ("a\u0301b", ["a", "\u0301", "b"]),
        ("  \x1c'll\x85", [" ", " \x1c'", "ll", "\x85"]),
        ("", []),
    ],
)
def test_words(given, expected):
    assert list(byte_bpe.words(given)) == expected


def test_merges_by_rank():
    bpe = ByteBpe({("l", "o"): 0, ("Ġ", "lo"): 1, ("lo", "w"): 2, ("e", "r"): 3})
    # " lo" merges before "low"; the sign for a space is stripped.
    assert bpe.tokenize("low lower") == ["low", "lo", "w", "er"]
    assert bpe.tokenize("lolo  é") == ["lo", "lo", "", "", "Ã", "©"]


def test_merges_file(tmp_path):
    (tmp_path / "merges.txt").write_text("#version: 0.2\nl o\nlo w\n\n", encoding="utf-8")
    assert byte_bpe.load_merges(tmp_path) == {("l", "o"): 0, ("lo", "w"): 1}
    (tmp_path / "merges.txt").write_text("l o\nlow\n")
    with pytest.raises(ValueError, match=r"merges\.txt:2: expected two pieces"):
        byte_bpe.load_merges(tmp_path)
    (tmp_path / "merges.txt").write_text("")
    with pytest.raises(ValueError, match="has no merges"):
        byte_bpe.load_merges(tmp_path)
    with pytest.raises(ValueError, match="not a readable"):
        byte_bpe.load_merges(tmp_path / "other.txt")


def test_rouge_counts_the_pieces_of_all_languages(tmp_path, monkeypatch):
    assert text.score_rouge_l("日本", ["日本"]) == 0.0  # no Latin letters, no words
    byte_bpe.default.cache_clear()
    monkeypatch.delenv(byte_bpe.VARIABLE, raising=False)
    with pytest.raises(ValueError, match="set UL2TUNE_GPT2_BPE to its"):
        text.score_rouge_l_gpt2("x", ["x"])
    (tmp_path / "merges.txt").write_text("a b\n")
    monkeypatch.setenv(byte_bpe.VARIABLE, str(tmp_path))
    assert registry.SCORES["rouge_l_gpt2"]("日本", ["x", "日本"]) == 1.0
    assert registry.SCORES["rouge_l_gpt2"]("ab", ["ab cc cc"]) == 0.25  # of "cc", two pieces each
    byte_bpe.default.cache_clear()
