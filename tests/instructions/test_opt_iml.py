"""OPT-IML: delimiters, placement of demos, merged prompts, and the mixture's percentages."""

import collections
import dataclasses
import doctest

import pytest

from ul2tune.data import rates
from ul2tune.data.rates import Leaf
from ul2tune.instructions import opt_iml
from ul2tune.instructions.records import Demo, Record

RECORD = Record(
    id="r",
    task="t",
    instruction="Say the colour. ",
    input="Grass",
    targets=("green ", "lime"),
    answer_choices=("green ", "red"),
    demos=(
        Demo(input="Sky", target="blue", id="s"),
        Demo(input="Sun", target="cold", negative=True),
        Demo(input="Snow:", target="white"),
    ),
)


def test_text_of_an_example():
    assert opt_iml.join("a: ", " b \n") == "a:  b"
    assert opt_iml.join("a\n", "b") == "a\n b"


def delimiter(record, seed=0, **options):
    inputs = opt_iml.render(record, seed, **options).inputs
    (found,) = [d for d in opt_iml.DELIMITERS if inputs.endswith(record.input + d)] or [""]
    return found


def test_zero_shot():
    rendered = opt_iml.render(RECORD, 0)
    assert rendered.inputs == f"Say the colour.\n\nGrass{delimiter(RECORD)}"
    assert rendered.targets == " green"
    assert rendered.answer_choices == (" green", " red")
    assert rendered.inputs + rendered.targets == opt_iml.join(rendered.inputs, "green ")


def test_a_prompt_that_ends_in_a_colon_keeps_it():
    for ending in (":", ": ", ":\n"):
        record = dataclasses.replace(RECORD, instruction="", input="Grass is" + ending)
        assert opt_iml.render(record, 0).inputs == "Grass is:"


def test_demos_of_both_kinds_of_instruction():
    d = delimiter(RECORD, demos=2)
    task = opt_iml.render(RECORD, 0, demos=2)
    assert task.inputs == f"Say the colour.\n\nSky{d} blue\n\nSnow: white\n\nGrass{d}"
    assert task.demo_ids == ("s", "positive-2")
    own = opt_iml.render(RECORD, 0, demos=1, placement="instance", separator="\n")
    assert own.inputs == f"Say the colour. Sky{d} blue\nSay the colour. Grass{d}"


def test_delimiters_are_drawn_evenly_and_by_the_seed():
    records = [dataclasses.replace(RECORD, id=str(i)) for i in range(2000)]
    counts = collections.Counter(delimiter(record) for record in records)
    assert set(counts) == set(opt_iml.DELIMITERS)
    assert max(abs(n - 250) for n in counts.values()) < 3 * (250 * 7 / 8) ** 0.5
    assert any(delimiter(r, 0) != delimiter(r, 1) for r in records[:20])


class Corpus:
    splits = ("train",)

    def read(self, split):
        return (dataclasses.replace(RECORD, id=f"{split}{i}") for i in range(600))

    def fingerprint(self):
        return "c"


def test_merged_prompts_are_n_examples_in_total():
    merged = opt_iml.MergedPrompts(corpus=Corpus(), template_ids=("a", "b", "c"), limit=300)
    found = list(merged.read("train"))
    assert len({record.id for record in found}) == len(found) == 300
    counts = collections.Counter(record.template_id for record in found)
    assert min(counts.values()) > 70
    assert list(merged.read("train")) == found
    other = dataclasses.replace(merged, seed=1)
    assert list(other.read("train")) != found
    assert other.fingerprint() != merged.fingerprint()
    with pytest.raises(ValueError, match="needs a template"):
        opt_iml.MergedPrompts(corpus=Corpus(), template_ids=())


def benchmark_of(tree, **counts):
    share = rates.resolve(tree, counts)
    return {child.name: 100 * child.rate for child in share.children}


def every_benchmark():
    return {b: [Leaf(name=f"{b}_1", examples=9)] for b in opt_iml.PROPORTIONS}


def test_final_percentages():
    tree = opt_iml.mixture("m", every_benchmark())
    assert list(benchmark_of(tree).values()) == pytest.approx([4, 2, 20, 25, 45, 2, 2])


def test_reasoning_comes_from_the_largest_and_pretraining_from_all():
    tree = opt_iml.mixture(
        "m",
        every_benchmark(),
        reasoning=[Leaf(name="gsm8k", examples=5)],
        pretraining=[Leaf(name="text")],
    )
    found = benchmark_of(tree, text=1)
    assert found["pretraining"] == 5
    scaled = {name: value / 0.95 for name, value in found.items() if name != "pretraining"}
    assert scaled == pytest.approx(
        {**opt_iml.PROPORTIONS, "promptsource": 44, "reasoning": 1}, rel=1e-12
    )


def test_benchmarks_at_hand_share_the_percentages_of_the_others():
    tree = opt_iml.mixture(
        "m", {"flan": [Leaf(name="a")], "niv2": [Leaf(name="b")]}, reasoning=[Leaf(name="r")]
    )
    found = benchmark_of(tree, a=1, b=1, r=1)
    assert found == pytest.approx({"flan": 2000 / 45, "niv2": 2500 / 45 - 1, "reasoning": 1})


def test_cap_and_merged_tasks():
    prompts = opt_iml.merged_task("squad", ["squad_1", "squad_2", "squad_3"])
    tree = opt_iml.mixture("m", {"promptsource": [prompts, Leaf(name="rte", examples=2048)]})
    found = rates.flat(rates.resolve(tree, dict.fromkeys(("squad_1", "squad_2", "squad_3"), 87599)))
    # 4,096 + 2,048: all three prompts of squad together count once.
    assert found["rte"] == pytest.approx(1 / 3)
    assert found["squad_1"] == pytest.approx(2 / 9)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"benchmarks": {}}, "has no benchmarks"),
        ({"benchmarks": {"glue": [Leaf(name="a")]}}, "'glue' of mixture 'm' has no proportion"),
        ({"benchmarks": {"flan": []}}, "'flan' of mixture 'm' has no tasks"),
        (
            {
                "benchmarks": {"flan": [Leaf(name="a")]},
                "pretraining": [Leaf(name="p")],
                "pretraining_percent": 100,
            },
            "pretraining_percent must be between 0 and 100, got 100",
        ),
    ],
)
def test_errors(arguments, message):
    with pytest.raises(ValueError, match=message):
        opt_iml.mixture("m", **arguments)


def test_docstrings():
    assert doctest.testmod(opt_iml).failed == 0
