"""Records: validation, JSON round trip, hashes that do not depend on the process."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ul2tune.instructions import records
from ul2tune.instructions.records import Demo, Query, Record, Rendered

TEXT = st.text(max_size=20)
NAME = st.text(min_size=1, max_size=20)
DEMOS = st.builds(
    Demo, input=TEXT, target=TEXT, explanation=st.none() | TEXT, negative=st.booleans(), id=TEXT
)
RECORDS = st.builds(
    Record,
    id=NAME,
    task=NAME,
    input=TEXT,
    targets=st.lists(TEXT, min_size=1, max_size=3).map(tuple),
    category=TEXT,
    instruction=TEXT,
    split_level=st.sampled_from(records.SPLIT_LEVELS),
    answer_choices=st.none() | st.lists(TEXT, min_size=2, max_size=4, unique=True).map(tuple),
    demos=st.lists(DEMOS, max_size=3).map(tuple),
    template_style=st.sampled_from(records.TEMPLATE_STYLES),
    inverted=st.booleans(),
    metric_names=st.lists(NAME, max_size=2).map(tuple),
)


def record(**changes) -> Record:
    return Record(**{"id": "a", "task": "t", "input": "x", "targets": ("y",), **changes})


@settings(deadline=None, derandomize=True, max_examples=100)
@given(RECORDS)
def test_json_restores_an_equal_record(original):
    assert Record.from_json(json.loads(json.dumps(original.to_json()))) == original


@settings(deadline=None, derandomize=True, max_examples=20)
@given(st.lists(RECORDS, max_size=4))
def test_files_restore_equal_records(tmp_path_factory, originals):
    path = tmp_path_factory.mktemp("records") / "r.jsonl"
    records.write_jsonl(originals, path)
    assert list(records.read_jsonl(path)) == originals


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"id": ""}, "'id' .* must be not empty"),
        ({"targets": ()}, "at least one reference"),
        ({"targets": "yes"}, "'targets' .* list of strings"),
        ({"answer_choices": ("one",)}, "two or more choices"),
        ({"answer_choices": ("a", "a")}, "different strings"),
        ({"split_level": "dev"}, "'split_level' .* got 'dev'"),
        ({"template_style": "few"}, "'template_style'"),
        ({"demos": ("d",)}, "'demos'"),
        ({"demos": (Demo(input="a", target=3),)}, "demo 0"),  # type: ignore[arg-type]
        ({"input": None}, "'input' .* must be a string"),
        ({"inverted": 1}, "'inverted'"),
    ],
)
def test_a_wrong_field_is_named_with_its_value(changes, message):
    with pytest.raises(ValueError, match=message):
        record(**changes)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b'{"id": "a"', r"r\.jsonl:2: not valid"),
        (b'{"id": "\xff"}', r"r\.jsonl:2: not valid"),
        (b"[1]", r"r\.jsonl:2: expected a JSON object, got list"),
        (b'{"id": "a", "task": "t", "input": "x"}', r"r\.jsonl:2: .*targets"),
        (b'{"idd": "a"}', r"r\.jsonl:2: unknown field 'idd'"),
        (b'{"id":"a","task":"t","input":"x","targets":[1]}', r"r\.jsonl:2: .*list of strings"),
        (
            b'{"id":"a","task":"t","input":"x","targets":["y"],"demos":[{"input":"q"}]}',
            r"r\.jsonl:2: demo .*target",
        ),
    ],
)
def test_a_bad_line_is_named(tmp_path, line, message):
    path = tmp_path / "r.jsonl"
    path.write_bytes(json.dumps(record().to_json()).encode() + b"\n" + line + b"\n")
    with pytest.raises(ValueError, match=message):
        list(records.read_jsonl(path))


def test_stable_hash_is_the_same_in_another_process():
    parts = ("seed", 7, "ä\x1f")
    code = f"from ul2tune.instructions.records import stable_hash; print(stable_hash(*{parts!r}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(done.stdout) == records.stable_hash(*parts)
    assert records.stable_hash("a", "b") != records.stable_hash("a,b")
    assert records.stable_hash("1") != records.stable_hash(1)


def test_move_space_gives_the_space_to_every_answer():
    moved = records.move_space(
        Rendered(inputs="Output: ", targets="yes", answer_choices=("yes", "no"))
    )
    assert moved == Rendered(inputs="Output:", targets=" yes", answer_choices=(" yes", " no"))
    query = Query(inputs="a Output: ", targets="x", prior="N/A ")
    asked = Rendered(inputs="p ", targets="x", answer_choices=("a", "b"), queries=(query, query))
    assert records.move_space(asked) == Rendered(
        inputs="p",
        targets=" x",
        answer_choices=("a", "b"),
        queries=(Query(inputs="a Output:", targets=" x", prior="N/A"),) * 2,
    )
    plain = Rendered(inputs="Output:", targets="yes")
    assert records.move_space(plain) == plain


def test_evaluation_fields_are_the_promised_ones_and_hold_the_baselines():
    demos = (Demo(input="p", target="bad", negative=True), Demo(input="q", target="good"))
    one = record(demos=demos, answer_choices=("y", "n"), metric_names=("exact_match",))
    rendered = Rendered(inputs="in", targets="y", answer_choices=(" y", " n"), demo_ids=("d",))
    fields = records.evaluation_fields(one, rendered)
    assert tuple(fields) == records.FIELD_NAMES
    assert fields["copy_input"] == "x"
    assert fields["copy_demo"] == "good"
    assert fields["answer_choices"] == [" y", " n"]
    assert (fields["split_level"], fields["queries"], fields["truncated"]) == ("train", "", "")
    cut = records.evaluation_fields(one, dataclasses.replace(rendered, truncated=True))
    assert cut["truncated"] == "yes"
    assert records.copy_demo(record()) == ""
