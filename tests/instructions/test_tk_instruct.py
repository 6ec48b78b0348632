"""Tk-Instruct's prompts, byte for byte."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ul2tune.data import vocab
from ul2tune.instructions import superni, superni_file, tk_instruct
from ul2tune.instructions.records import Demo, Record
from ul2tune.instructions.tk_instruct import MIXED_ENCODINGS, TkInstruct

BYTES = vocab.load("bytes")
RECORD = Record(
    id="r1",
    task="task1_colour",
    instruction="Say the colour",
    input=" grass ",
    targets=("green", "lime"),
    demos=(
        Demo(input="sky", target="blue", explanation="Look up!"),
        Demo(input="sun?", target="yellow.", explanation=""),
        Demo(input="rose", target="red"),
        Demo(input="coal", target="white", explanation="It is black", negative=True),
    ),
)
QUERY = "Now complete the following example -\nInput: grass.\nOutput: "


def text(**options) -> str:
    return tk_instruct.render(RECORD, 0, encodings=(TkInstruct(**options),)).inputs


def test_definition_alone():
    assert text(positive=0) == "Definition: Say the colour.\n\n" + QUERY


def test_everything():
    assert text(task_name=True, positive=3, negative=2, explanations=True) == (
        "task1_colour. Definition: Say the colour.\n\n"
        " Positive Example 1 -\nInput: sky.\n Output: blue.\n Explanation: Look up!\n\n"
        " Positive Example 2 -\nInput: sun?\n Output: yellow.\n Explanation: .\n\n"
        " Positive Example 3 -\nInput: rose.\n Output: red.\n\n"
        " Negative Example 1 -\nInput: coal.\n Output: white.\n Explanation: It is black.\n\n"
        + QUERY
    )


def test_the_budget_admits_demos_up_to_the_first_that_does_not_fit():
    def shown(max_tokens: int) -> tuple[str, ...]:
        encoding = TkInstruct(positive=3, negative=1, max_tokens=max_tokens)
        return tk_instruct.render(RECORD, 0, encodings=(encoding,), tokenizer=BYTES).demo_ids

    lengths = {
        n: len(text(positive=n).encode()) + 1  # with end of sequence
        for n in range(4)
    }
    assert shown(lengths[1]) == ("positive-1",)
    assert shown(lengths[2] - 1) == ("positive-1",)
    assert shown(lengths[2]) == ("positive-1", "positive-2")
    assert shown(2000) == ("positive-1", "positive-2", "positive-3", "negative-1")


@pytest.mark.parametrize("negative", [False, True])
def test_the_budget_counts_a_space_between_demos_of_a_kind(negative):
    """As Tk-Instruct's collator, whose prompt has none: the third demo needs a token more."""
    demos = tuple(Demo(input=f"{n}", target="y", negative=negative) for n in range(3))
    record = Record(id="r", task="t", instruction="Do", input="q", targets=("z",), demos=demos)

    def render(**options):
        encodings = (TkInstruct(positive=3, negative=3, **options),)
        return tk_instruct.render(record, 0, encodings=encodings, tokenizer=BYTES)

    length = len(render().inputs.encode()) + 1
    assert len(render(max_tokens=length + 1).demo_ids) == 3
    assert len(render(max_tokens=length).demo_ids) == 2


def test_a_small_demo_after_one_that_does_not_fit_is_not_shown():
    demos = (Demo(input="x" * 500, target="y"), Demo(input="a", target="b"))
    record = Record(id="r", task="t", instruction="Do", input="q", targets=("z",), demos=demos)
    encoding = TkInstruct(max_tokens=300)
    rendered = tk_instruct.render(record, 0, encodings=(encoding,), tokenizer=BYTES)
    assert rendered.demo_ids == ()
    assert rendered.inputs == "Definition: Do.\n\n" + QUERY.replace("grass", "q")
    assert rendered.truncated


def test_a_prompt_is_whole_where_all_demos_asked_for_are_in_it():
    wanted = len(text(positive=1, negative=1).encode()) + 1
    for max_tokens, truncated in ((wanted, False), (wanted - 1, True)):
        encoding = TkInstruct(positive=1, negative=1, max_tokens=max_tokens)
        rendered = tk_instruct.render(RECORD, 0, encodings=(encoding,), tokenizer=BYTES)
        assert rendered.inputs.endswith(QUERY)
        assert rendered.truncated is truncated
        assert rendered.demo_ids == ("positive-1", "negative-1")[: 1 if truncated else 2]


def test_a_prompt_that_is_too_long_is_cut_from_the_right():
    encoding = TkInstruct(positive=0, max_tokens=20)
    rendered = tk_instruct.render(RECORD, 0, encodings=(encoding,), tokenizer=BYTES)
    assert rendered.inputs == "Definition: Say the "
    assert rendered.truncated


@settings(deadline=None, derandomize=True, max_examples=60)
@given(st.integers(1, 600), st.integers(0, 3), st.integers(0, 1), st.booleans())
def test_no_prompt_is_longer_than_its_budget(budget, positive, negative, definition):
    encoding = TkInstruct(
        positive=positive, negative=negative, definition=definition, max_tokens=budget
    )
    rendered = tk_instruct.render(RECORD, 0, encodings=(encoding,), tokenizer=BYTES)
    assert len(BYTES.encode(rendered.inputs)) <= budget
    assert rendered.truncated or rendered.inputs.endswith(QUERY)


def test_references_and_encodings_are_drawn_by_seed_and_id():
    def draws(seed):
        records = [Record(**{**vars(RECORD), "id": f"r{i}"}) for i in range(100)]
        return [tk_instruct.render(r, seed, encodings=MIXED_ENCODINGS) for r in records]

    first = draws(0)
    assert first == draws(0)
    assert first != draws(1)
    assert {rendered.targets for rendered in first} == {"green", "lime"}
    assert len({rendered.inputs for rendered in first}) == len(MIXED_ENCODINGS)
    fixed = tk_instruct.render(RECORD, 3, random_reference=False)
    assert fixed.targets == "green"


GOLDEN_ENCODINGS = {
    "definition": TkInstruct(positive=0),
    "pos2_only": TkInstruct(definition=False),
    "def_pos2": TkInstruct(),
    "def_pos2_neg2": TkInstruct(negative=2),
    "def_pos2_expl": TkInstruct(explanations=True),
    "taskname_def_pos1": TkInstruct(task_name=True, positive=1),
}


def test_equals_tk_instruct_byte_for_byte(shared):
    root = shared / "data" / "natural_instructions"
    lines = (root / "golden_tk_encodings.jsonl").read_text(encoding="utf-8").splitlines()
    goldens = [json.loads(line) for line in lines]
    assert {golden["encoding"] for golden in goldens} == GOLDEN_ENCODINGS.keys()
    for golden in goldens:
        task = superni_file.load_task(root / "tasks" / f"{golden['task']}.json")
        record = next(r for r in superni.records(task) if r.id == golden["instance_id"])
        encoding = GOLDEN_ENCODINGS[golden["encoding"]]
        assert tk_instruct.render(record, 0, encodings=(encoding,)).inputs == golden["source"]


def test_unknown_option_is_refused():
    with pytest.raises(TypeError):
        TkInstruct(postive=1)  # type: ignore[call-arg]
