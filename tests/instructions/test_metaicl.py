"""MetaICL: both directions, limits, Zipf's law, both losses, files."""

import collections
import dataclasses
import doctest
import json

import pytest

from ul2tune.data.vocab import ByteVocabulary
from ul2tune.instructions import metaicl
from ul2tune.instructions.metaicl import MetaICL, TaskFile
from ul2tune.instructions.records import Demo, Record

RECORD = Record(
    id="q",
    task="t",
    input="x",
    targets=("y",),
    answer_choices=("y", "n"),
    demos=(Demo(input="x1", target="y1"), Demo(input="x2", target="y2", id="second")),
)


BYTES = ByteVocabulary()


class Words:
    """White space divides; newlines and separators are no tokens."""

    def encode(self, text):
        self.words = getattr(self, "words", [])
        self.words += [w for w in text.split() if w not in self.words]
        return [self.words.index(word) for word in text.split()]

    def decode(self, ids):
        return " ".join(self.words[i] for i in ids)


def texts(record=RECORD, seed=0, tokenizer=None, **options):
    found = metaicl.render(record, seed, config=MetaICL(**options), tokenizer=tokenizer)
    return found.inputs, found.targets


def test_direct_and_channel():
    assert texts() == ("x1\ny1\n\n\nx2\ny2\n\n\nx\n", "y")
    assert texts(method="channel") == ("y1\nx1\n\n\ny2\nx2\n\n\ny\n", "x")
    assert texts(demos=0) == ("x\n", "y")
    assert texts(demos=1, newlines=False, separators=(" ",)) == ("x1 y1 x ", "y")
    assert metaicl.render(RECORD, 0).demo_ids == ("demo-0", "second")


def test_suffix_loss_starts_at_the_first_demos_answer():
    assert texts(loss="suffix") == ("x1\n", "y1\n\n\nx2\ny2\n\n\nx\ny")
    assert texts(loss="suffix", method="channel") == ("y1\n", "x1\n\n\ny2\nx2\n\n\ny\nx")
    assert texts(loss="suffix", demos=0) == ("x\n", "y")
    asked = dataclasses.replace(RECORD, split_level="held_out")
    assert texts(asked, loss="suffix") == texts()


def test_examples_are_cut_in_their_inputs():
    words = " ".join(f"w{i}" for i in range(50))
    record = dataclasses.replace(RECORD, input=words, targets=("a b c",), demos=())
    inputs, targets = texts(record, tokenizer=Words(), example_tokens=10)
    assert inputs == "w0 w1 w2 w3 w4\n"  # with the answer 8: two are to spare
    assert targets == "a b c"
    record = dataclasses.replace(record, targets=(words,))
    inputs, targets = texts(record, tokenizer=Words(), example_tokens=10)
    assert (inputs, len(targets.split())) == ("w0\n", 7)
    assert metaicl.render(record, 0, config=MetaICL(example_tokens=10), tokenizer=Words()).truncated


def test_what_stands_before_and_in_an_example_counts_as_its_own():
    demos = tuple(Demo(input=c * 30, target="yes") for c in "ab")
    record = dataclasses.replace(RECORD, input="c" * 30, targets=("yes",), demos=demos)
    for method in ("direct", "channel"):
        inputs, targets = texts(record, method=method, tokenizer=BYTES, example_tokens=20)
        letters = [(inputs + targets).count(c) for c in "abc"]
        # Two are to spare, one is the newline, three the answer; three newlines before the others.
        assert letters == [20 - 6, 20 - 9, 20 - 9]


def test_all_choices_leave_the_same_question_and_demos():
    demos = tuple(Demo(input=c * 4, target="ja") for c in "ab")
    choices = ("yes", "certainly not", "no")
    record = dataclasses.replace(
        RECORD, input="c" * 30, targets=("no",), answer_choices=choices, demos=demos
    )
    for method in ("direct", "channel"):
        config = MetaICL(method=method, example_tokens=30, max_tokens=40)
        asked = metaicl.queries(record, 0, config=config, tokenizer=BYTES)
        shown = [(q.inputs + q.targets).replace(c, "?") for q, c in zip(asked, choices)]
        assert len(set(shown)) == 1
        assert shown[0].count("c") == 30 - 2 - len("\n\n\n" + "\n" + "certainly not")
        # The first demo would fit before the shortest answer.
        assert shown[0].startswith("bbbb\nja" if method == "direct" else "ja\nbbbb")


def test_newlines_of_the_release():
    free = dataclasses.replace(RECORD, answer_choices=None)
    assert texts(free) == texts() == texts(compat=True)
    assert texts(free, compat=True) == ("x1y1\n\n\nx2y2\n\n\nx", "y")
    assert texts(free, compat=True, method="channel") == ("y1x1\n\n\ny2x2\n\n\ny", "x")
    empty = dataclasses.replace(RECORD, input="", demos=(*RECORD.demos, Demo(input="", target="z")))
    direct = "x1\ny1\n\n\nx2\ny2\n\n{0}\nz\n\n{0}\n"
    assert texts(empty) == (direct.format("\n"), "y")
    assert texts(empty, compat=True) == (direct.format(""), "y")
    assert texts(empty, compat=True, method="channel") == (
        "y1\nx1\n\n\ny2\nx2\n\n\nz\n\n\ny",
        "",
    )
    raw = {"newlines": False, "separators": (" ",)}
    assert texts(free, compat=True, **raw) == texts(free, **raw) == ("x1 y1 x2 y2 x ", "y")


def test_the_last_demos_are_kept():
    demos = tuple(Demo(input=f"in{i} a b", target="out", id=str(i)) for i in range(9))
    record = dataclasses.replace(RECORD, demos=demos)
    config = MetaICL(max_tokens=15, example_tokens=10)
    found = metaicl.render(record, 0, config=config, tokenizer=Words())
    assert found.demo_ids == ("6", "7", "8")  # 3 * 4 + 2 tokens
    assert found.truncated
    assert found.inputs.startswith("in6 a b\nout")


@pytest.mark.parametrize(("exponent", "zero_shot"), [(4, 0.925), (2, 0.671)])
def test_zipf(exponent, zero_shot):
    assert metaicl.zipf(exponent, 5)[0] == pytest.approx(zero_shot, abs=5e-4)
    demos = tuple(Demo(input=f"i{i}", target="o") for i in range(5))
    config = MetaICL(demos=5, zipf=exponent)
    number = 4000
    counts = collections.Counter(
        len(
            metaicl.render(
                dataclasses.replace(RECORD, id=str(i), demos=demos), 3, config=config
            ).demo_ids
        )
        for i in range(number)
    )
    for k, p in enumerate(metaicl.zipf(exponent, 5)):
        assert abs(counts[k] - number * p) <= 3 * (number * p * (1 - p)) ** 0.5


def test_separators_are_drawn():
    config = MetaICL(separators=metaicl.SEPARATORS)
    records = [dataclasses.replace(RECORD, id=str(i)) for i in range(60)]
    found = {metaicl.render(record, 0, config=config).inputs for record in records}
    assert len(found) == len(metaicl.SEPARATORS)


def test_queries():
    direct = metaicl.queries(RECORD, 0)
    assert [q.targets for q in direct] == ["y", "n"]
    assert len({q.inputs for q in direct}) == 1
    channel = metaicl.queries(RECORD, 0, config=MetaICL(method="channel", loss="suffix"))
    assert [q.targets for q in channel] == ["x", "x"]
    assert [q.inputs[-2:] for q in channel] == ["y\n", "n\n"]
    with_prior = metaicl.queries(RECORD, 0, config=MetaICL(demos=1, pmi=True))
    assert [q.prior for q in with_prior] == ["x1\ny1\n\n\nN/A\n"] * 2
    assert {q.prior for q in (*direct, *channel)} == {""}
    with pytest.raises(ValueError, match="has no answer choices"):
        metaicl.queries(dataclasses.replace(RECORD, answer_choices=None), 0)


def test_records_to_evaluate_have_a_query_per_choice():
    asked = dataclasses.replace(RECORD, split_level="held_out")
    for config in (MetaICL(), MetaICL(method="channel"), MetaICL(pmi=True)):
        found = metaicl.render(asked, 0, config=config)
        assert found.answer_choices == ("y", "n")
        assert found.queries == metaicl.queries(asked, 0, config=config)
        assert found.queries[0].inputs + found.queries[0].targets == found.inputs + found.targets
        # What is trained on is ranked only where the choice stands alone after the prompt.
        trained = metaicl.render(RECORD, 0, config=config)
        assert trained.queries == ()
        assert trained.answer_choices == (("y", "n") if config == MetaICL() else ())


def test_a_prior_shows_the_demos_that_fitted_its_query():
    demos = tuple(Demo(input=f"in{i} a b", target="out", id=str(i)) for i in range(9))
    record = dataclasses.replace(RECORD, demos=demos, input="one two three four five")
    config = MetaICL(max_tokens=15, example_tokens=10, pmi=True)
    for query in metaicl.queries(record, 0, config=config, tokenizer=Words()):
        assert query.inputs == query.prior.replace("N/A", record.input)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "channel", "pmi": True}, "pmi is for method='direct'"),
        ({"method": "both"}, "method is 'both'"),
        ({"loss": "prefix"}, "loss is 'prefix'"),
        ({"demos": -1}, "demos >= 0"),
        ({"example_tokens": 2000}, "between 3 and max_tokens=1024"),
    ],
)
def test_wrong_configurations(options, message):
    with pytest.raises(ValueError, match=message):
        MetaICL(**options)


def write(path, number, options=("good", "bad")):
    lines = [
        {"task": "t", "input": f"{path.stem} {i}", "output": options[i % 2], "options": options}
        for i in range(number)
    ]
    path.write_text("\n".join(json.dumps(line) for line in lines) + "\n\n")
    return str(path)


def test_files(tmp_path):
    train, test = write(tmp_path / "tr.jsonl", 30), write(tmp_path / "te.jsonl", 4)
    corpus = TaskFile(train=train, test=test, demos=5, limit=20)
    records = list(corpus.read("train"))
    assert len(records) == 20
    for record in records:
        assert len({demo.id for demo in record.demos}) == 5
        assert record.id not in {demo.id for demo in record.demos}
    assert list(corpus.read("train")) == records
    asked = list(corpus.read("validation"))
    assert [demo.input for demo in asked[0].demos] == [f"tr {i}" for i in range(5)]
    assert asked[0].answer_choices == ("good", "bad")
    assert (asked[0].split_level, corpus.splits) == ("supervised", ("train", "validation"))
    before = corpus.fingerprint()
    write(tmp_path / "te.jsonl", 5)
    assert corpus.fingerprint() != before


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "bad.jsonl:2: not valid JSON"),
        ("[]", "bad.jsonl:2: expected a JSON object"),
        ('{"task": "t", "input": 3, "output": ""}', "bad.jsonl:2: 'input' must be a string"),
        (
            '{"task": "t", "input": "", "output": "a", "options": "ab"}',
            "bad.jsonl:2: 'options' must be a list",
        ),
        (
            '{"task": "t", "input": "", "output": "a", "options": ["b", "c"]}',
            "bad.jsonl:2: the output 'a' is not one of the options",
        ),
    ],
)
def test_bad_lines_are_named(tmp_path, line, message):
    path = tmp_path / "bad.jsonl"
    path.write_text('{"task": "t", "input": "i", "output": "o", "options": []}\n' + line)
    with pytest.raises(ValueError, match=message):
        list(metaicl.load(path))


def test_docstrings():
    assert doctest.testmod(metaicl).failed == 0
