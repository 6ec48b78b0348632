"""Few-shot prompts: the authors' layouts, budgets, separators."""

from __future__ import annotations

from dataclasses import replace

import pytest

from ul2tune.data.vocab import ByteVocabulary
from ul2tune.instructions import few_shot
from ul2tune.instructions.few_shot import CONTINUATION, MARKED, MARKED_ZERO_SHOT, Layout
from ul2tune.instructions.patterns import compile_wrapper
from ul2tune.instructions.records import Demo, Record

DEMOS = tuple(Demo(id=f"d{i}", input=f"Q: {i} + {i}\nA: ", target=str(2 * i)) for i in range(1, 4))


def record(**changes) -> Record:
    values = {
        "id": "q",
        "task": "sums",
        "input": "Q: 4 + 4\nA: ",
        "targets": (" 8\n",),
        "demos": DEMOS,
        "template_id": "1",
    }
    return Record(**{**values, **changes})


def prompt(shots: list[tuple[str, str]], query: str, layout: Layout) -> str:
    demos = tuple(Demo(input=inputs, target=target) for inputs, target in shots)
    rendered = few_shot.render(record(input=query, demos=demos), 0, layout=layout)
    assert rendered is not None
    return rendered.inputs


def test_the_layout_of_flan_2021():
    # The example in SeqIO's documentation of `fewshot_preprocessor`, with FLAN's suffix.
    shots = [("How many states in the US?", "50"), ("How many cents in a dollar?", "100")]
    text = prompt(shots, "Who was in the Beatles?", MARKED)
    assert text == (
        "0 How many states in the US? X 1 50 X 0 How many cents in a dollar? X 1 100 X "
        "0 Who was in the Beatles? X 1 FLAN"
    )
    zero = few_shot.render_zero_shot(record(input="Who?\n"), 0, wrapper=MARKED_ZERO_SHOT)
    assert zero.inputs == "0 Who?\n X 1 FLAN"
    assert prompt([("a?", "b")], " c? ", CONTINUATION) == "a? b\n\n c?"


def test_the_layout_of_flan_2022():
    layout = Layout(separators=("?", "\n\n"), strip_targets=True)
    rendered = few_shot.render(record(), 0, layout=layout)
    assert rendered is not None
    assert rendered.inputs == ("Q: 1 + 1\nA: 2\n\nQ: 2 + 2\nA: 4\n\nQ: 3 + 3\nA: 6\n\nQ: 4 + 4\nA:")
    assert rendered.targets == "8"
    assert rendered.demo_ids == ("d1", "d2", "d3")
    kept = few_shot.render(record(), 0, layout=replace(layout, strip_targets=False))
    assert kept is not None
    assert kept.targets == " 8\n"


def test_only_spaces_at_the_end_are_stripped_or_all_ascii_white_space():
    layout = Layout(separators=("",))
    texts = []
    for strip in ("spaces", "all"):
        bare = record(input=" x\n  ", demos=())
        rendered = few_shot.render(bare, 0, layout=replace(layout, strip=strip))
        assert rendered is not None
        texts.append(rendered.inputs)
    assert texts == [" x\n", "x"]


def test_the_prefix_of_the_answer_closes_the_prompt():
    layout = Layout(
        inputs_prefix="I:", x_y_delimiter="\n", targets_prefix="O:\n ", separators=("|",)
    )
    demo = Demo(id="d", input="a", target="b")
    rendered = few_shot.render(record(input="c", demos=(demo,)), 0, layout=layout)
    assert rendered is not None
    assert rendered.inputs == "I:a\nO:\n b|I:c\nO:"


def test_a_wrapper_sees_the_definition():
    layout = Layout(wrappers=(compile_wrapper("{{Definition}}\n\n{{inputs}}{final_suffix}", "!"),))
    rendered = few_shot.render(record(demos=(), instruction="Add."), 0, layout=layout)
    assert rendered is not None
    assert rendered.inputs == "Add.\n\nQ: 4 + 4\nA:!"


def test_exemplars_are_left_out_from_the_first_that_does_not_fit():
    query = len("Q: 4 + 4\nA: ")
    each = len("Q: 1 + 1\nA: 2")
    layout = Layout(separators=("##",), draw_by="task")
    for budget, shown in ((query + 3 * (each + 2), 3), (query + 3 * (each + 2) - 1, 2), (query, 0)):
        sized = replace(layout, max_tokens=budget)
        rendered = few_shot.render(record(), 0, layout=sized, tokenizer=ByteVocabulary())
        assert rendered is not None
        assert len(rendered.demo_ids) == shown
        assert rendered.truncated == (shown < 3)
    uncounted = replace(layout, max_tokens=query + 3 * each, count_separators=False)
    rendered = few_shot.render(record(), 0, layout=uncounted, tokenizer=ByteVocabulary())
    assert rendered is not None
    assert len(rendered.demo_ids) == 3


def test_an_example_without_exemplars_is_dropped_if_the_layout_says_so():
    layout = Layout(max_tokens=1, drop_bare=True)
    assert few_shot.render(record(), 0, layout=layout, tokenizer=ByteVocabulary()) is None
    assert few_shot.render(record(), 0, layout=layout) is not None  # no tokenizer, no budget


@pytest.mark.parametrize("by", ["example", "task"])
def test_separators_are_drawn_per_example_or_per_task(by):
    layout = Layout(separators=few_shot.MIX_SEPARATORS, draw_by=by)
    texts = set()
    for index in range(30):
        rendered = few_shot.render(record(id=f"q{index}"), 0, layout=layout)
        assert rendered is not None
        texts.add(rendered.inputs)
    assert len(texts) == (3 if by == "example" else 1)
