"""The round-trip audit finds what a vocabulary loses, and only that."""

import doctest

from ul2tune.data import roundtrip, vocab


def test_doctests():
    assert doctest.testmod(roundtrip).failed == 0


def test_a_lossless_vocabulary_is_clean():
    report = roundtrip.audit(vocab.load("bytes"), ["a\n\tb", "{<~^>}", "é"])
    assert (report.num_texts, report.num_lossy, report.num_unknown) == (3, 0, 0)
    assert report.num_tokens == 12
    assert "0 texts come back different" in report.describe()


def test_t5_loses_layout_and_code(shared):
    path = shared / "data/tokenizer/sentencepiece_cc_all.32000.100extra-sentencepiece.model"
    texts = ["one\ntwo", "if x < 3 { y }", "plain text."]
    report = roundtrip.audit(vocab.load(path), texts)
    assert report.num_lossy == 2
    assert report.num_unknown == 3
    assert report.lost["\n", " "] == 1
    assert {character for character, _ in report.lost} == {"\n", "<", "{", "}"}
    assert report.examples[0] == ("one\ntwo", "one two")
    assert "'\\n' becomes ' '" in report.describe()


def test_tasks_are_listed_from_the_worst(shared):
    path = shared / "data/tokenizer/sentencepiece_cc_all.32000.100extra-sentencepiece.model"
    t5 = vocab.load(path)
    reports = {
        "clean": roundtrip.audit(t5, ["plain text."]),
        "some": roundtrip.audit(t5, ["one\ntwo", "plain"]),
        "all": roundtrip.audit(t5, ["{a}\n{b}"]),
    }
    head, worst, some, total = roundtrip.table(reports).splitlines()
    assert "changed" in head
    assert worst.split()[:4] == ["100.0%", "1", "4", "all:"]
    assert "'{' -> '⁇' 2×" in worst
    assert some.split()[:4] == ["50.0%", "2", "0", "some:"]
    assert "all: 1 of 3 tasks lose nothing; '\\n' -> ' ' 2×" in total
    assert total.split()[:3] == ["50.0%", "4", "4"]


def test_a_table_of_tasks_that_lose_nothing_is_one_line():
    clean = roundtrip.audit(vocab.load("bytes"), ["a\nb"])
    (line,) = roundtrip.table({"a": clean, "b": clean}).splitlines()
    assert line.endswith("all: 2 of 2 tasks lose nothing")
