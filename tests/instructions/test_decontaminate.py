"""13-gram overlap: against a plain implementation, across layouts, short texts, files."""

import json
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ul2tune.instructions import decontaminate as module
from ul2tune.instructions.decontaminate import Text, decontaminate


def words(*numbers):
    return " ".join(f"w{n}" for n in numbers)


def naive(example, training, n):
    """Overlap with sets of tuples."""
    ngrams = {tuple(example[i : i + n]) for i in range(len(example) - n + 1)}
    seen = {tuple(t[i : i + n]) for t in training for i in range(len(t) - n + 1)}
    return len(ngrams & seen) / len(ngrams) if ngrams else 0.0


@settings(deadline=None, max_examples=40, derandomize=True)
@given(seed=st.integers(0, 10**6), n=st.integers(1, 4))
def test_as_a_plain_implementation(seed, n):
    rng = random.Random(seed)

    def texts(count):
        return [[f"w{rng.randrange(6)}" for _ in range(rng.randrange(0, 25))] for _ in range(count)]

    asked, training = texts(5), texts(3)
    report = decontaminate(
        [Text(name=str(i), text=" ".join(t)) for i, t in enumerate(asked)],
        [Text(name=f"t{i}", text=" ".join(t)) for i, t in enumerate(training)],
        ngram=n,
        threshold=0.0,
    )
    found = {int(c.id): c.overlap for c in report.contaminated}
    expected = {i: naive(t, training, n) for i, t in enumerate(asked)}
    assert found == {i: overlap for i, overlap in expected.items() if overlap > 0}


def test_the_line_says_what_and_where():
    example = Text(name="task/1", text="Start. " + words(*range(20)))
    training = [
        Text(name="a.txt:1", text=words(*range(100, 130))),
        Text(name="a.txt:9", text="So: " + words(*range(14)).upper().replace(" ", ", \n")),
        Text(name="b.txt:1", text=words(*range(13))),
    ]
    report = decontaminate([example], training)
    (found,) = report.contaminated
    assert (found.id, found.num_ngrams, found.overlap) == ("task/1", 9, 2 / 9)
    assert found.sources == ("a.txt:9",)  # the first that holds it
    assert [match.ngram for match in found.matches] == [words(*range(13)), words(*range(1, 14))]
    assert report.num_texts == 3
    assert report.describe().startswith("1 of 1 examples share more than 1.0% of their 13-grams")


def test_one_percent_is_not_more_than_one_percent():
    example = Text(name="e", text=words(*range(112)))  # 100 13-grams
    one = Text(name="t", text=words(*range(13)))
    assert not decontaminate([example], [one]).contaminated
    two = Text(name="t", text=words(*range(14)))
    assert decontaminate([example], [two]).contaminated[0].overlap == 0.02


def test_short_examples_are_named_not_hidden():
    report = decontaminate([Text(name="s", text="too short")], [Text(name="t", text="too short")])
    assert (report.too_short, report.num_examples) == (("s",), 0)


def test_wrong_settings():
    with pytest.raises(ValueError, match="ngram >= 1"):
        decontaminate([], [], ngram=0)
    with pytest.raises(ValueError, match="threshold"):
        decontaminate([], [], threshold=1.0)


def test_files(tmp_path):
    text = tmp_path / "corpus.txt"
    text.write_text("one\ntwo\n\n\nthree\n")
    found = [(t.name.rpartition(":")[2], t.text) for t in module.read_texts(text)]
    assert found == [("1", "one\ntwo\n"), ("5", "three\n")]
    lines = tmp_path / "data.jsonl"
    lines.write_text('{"id": "x", "input": "one", "targets": ["two"], "n": 3}\n\n"three"\n')
    assert [t.text for t in module.read_texts(lines)] == ["x\none\ntwo", "three"]
    lines.write_text("{}\n{")
    with pytest.raises(ValueError, match=r"data.jsonl:2: not valid JSON"):
        list(module.read_texts(lines))


def test_report_file(tmp_path):
    example = Text(name="e", text=words(*range(20)))
    report = decontaminate([example], [example])
    path = tmp_path / "new" / "report.jsonl"
    module.write_report(report, path)
    (line,) = map(json.loads, path.read_text().splitlines())
    assert (line["id"], line["overlap"], len(line["matches"])) == ("e", 1.0, module.SHOWN)
