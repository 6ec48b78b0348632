"""Records in templates: which template, which exemplars, which style."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from ul2tune.instructions.flan.corpus import Mode, Row, TemplatedCorpus, fill
from ul2tune.instructions.options import Formats, Styles
from ul2tune.instructions.patterns import Template, compile_pattern

LETTERS = tuple(f"\n({letter}) " for letter in "ABCDEFGHIJKLMNOPQRSTUVWXYZ")
STYLES = Styles(starts=("Pick:",), names=(LETTERS,), ends=(("",) * 26,))
SPEAKERS = Styles(starts=("Talk:",), names=(("\nA: ", "\nB: ") * 500,), ends=(("",) * 1000,))
FORMATS = Formats(options=STYLES, dialogs=SPEAKERS)


def template(inputs: str, targets: str = "{answer}") -> Template:
    return Template(compile_pattern(inputs), compile_pattern(targets))


NUMBERED = tuple(template(f"T{i} {{q}} {{options_}}") for i in range(10))


@dataclass(frozen=True)
class Sums:
    """37 questions to train on, three to evaluate."""

    number: int = 37
    splits = ("train", "validation")

    def read(self, split: str) -> Iterator[Row]:
        for i in range(self.number if split == "train" else 3):
            fields = {"q": f"{split} {i}", "answer": "even" if i % 2 == 0 else "odd"}
            yield Row(id=f"{split}-{i}", fields=fields, options=("even", "odd"))

    def fingerprint(self) -> str:
        return str(self.number)


def corpus(**mode) -> TemplatedCorpus:
    values = {"templates": NUMBERED, **mode}
    return TemplatedCorpus(task="sums", rows=Sums(), mode=Mode(**values))


ROW = Row(id="r", fields={"q": "2?", "answer": "even"}, options=("even", "odd"))


def test_options_are_in_the_fixed_form_or_in_a_style():
    plain = fill(ROW, NUMBERED[0])
    assert (plain.inputs, plain.targets) == ("T0 2? OPTIONS:\n- even\n- odd", ("even",))
    assert plain.choices == ("even", "odd")
    styled = fill(ROW, NUMBERED[0], formats=FORMATS)
    assert styled.inputs == "T0 2? Pick:\n(A) even\n(B) odd"
    assert (styled.targets, styled.choices) == (("(A)",), ("(A)", "(B)"))


def test_an_answer_keeps_its_words_where_no_option_is_shown():
    hidden = fill(ROW, template("{q}"), formats=FORMATS)
    assert (hidden.targets, hidden.choices) == (("even",), ("even", "odd"))


def test_the_authors_name_an_answer_by_an_option_in_every_template_of_a_task_that_shows_them():
    blind = template("Which number is {answer}?", "{q}")

    def prompts(*templates, **mode):
        records = corpus(templates=templates, formats=FORMATS, **mode).read("train")
        return {r.input for r in records if r.input.startswith("Which")}

    words = {"Which number is even?", "Which number is odd?"}
    assert prompts(blind, NUMBERED[0]) == words
    assert prompts(blind, NUMBERED[0], compat=True) == {"Which number is (A)?"}
    assert prompts(blind, compat=True) == words


def test_free_text_has_no_choices():
    assert fill(ROW, template("{answer}?", "{q}")).choices is None
    assert fill(ROW, template("{q}", "So {answer}.")).choices is None


def test_all_references_are_rendered():
    row = replace(ROW, answers=("even", "odd", "even"))
    assert fill(row, template("{q}", "A: {answer}")).targets == ("A: even", "A: odd")
    assert fill(row, NUMBERED[0], formats=FORMATS).targets == ("(A)", "(B)")


def test_more_options_or_turns_than_a_style_names_have_the_fixed_form():
    many = replace(ROW, options=tuple(str(i) for i in range(27)))
    assert fill(many, NUMBERED[0], formats=FORMATS).inputs.startswith("T0 2? OPTIONS:\n- 0\n")
    talk = Row(id="d", fields={"answer": "x"}, dialog=("Hi", "Yes?"))
    assert fill(talk, template("{dialog_}"), formats=FORMATS).inputs == "Talk:\nA: Hi\nB: Yes?\nA: "
    long = replace(talk, dialog=("Hi",) * 1000)
    assert fill(long, template("{dialog_}"), formats=FORMATS).inputs.startswith("DIALOG:\nHi\n- Hi")


def test_templates_depend_on_seed_and_row_alone():
    first = {r.id: r.template_id for r in corpus().read("train")}
    assert len(first) == 37
    assert {r.id: r.template_id for r in corpus().read("train")} == first
    assert {r.id: r.template_id for r in corpus(seed=1).read("train")} != first
    fewer = TemplatedCorpus(task="sums", rows=Sums(20), mode=Mode(templates=NUMBERED))
    assert all(first[r.id] == r.template_id for r in fewer.read("train"))


def test_the_authors_take_templates_in_turn_and_drop_the_last_round():
    records = list(corpus(compat=True).read("train"))
    assert [int(r.template_id) for r in records] == [*range(10)] * 3
    assert [r.id for r in records] == [f"train-{i}" for i in range(30)]
    assert list(corpus(compat=True).read("validation")) == []


def test_exemplars_share_the_querys_template():
    for record in corpus(shots=3, style="fs_opt").read("validation"):
        starts = {demo.input.split()[0] for demo in record.demos}
        assert starts == {f"T{record.template_id}"}
        assert len(record.demos) == 3
        assert all(demo.id.startswith("train-") for demo in record.demos)


def test_the_query_is_never_its_own_exemplar_but_in_compat():
    def leaks(**mode):
        records = corpus(shots=20, style="fs_opt", **mode).read("train")
        return sum(r.id in {demo.id for demo in r.demos} for r in records)

    assert leaks() == 0
    assert leaks(compat=True) > 0


def test_exemplars_may_have_templates_of_their_own():
    records = list(corpus(shots=5, own_templates=True).read("train"))
    assert all(len({d.input.split()[0] for d in r.demos}) > 1 for r in records[:3])
    compat = next(corpus(shots=5, own_templates=True, compat=True).read("train"))
    assert [demo.input.split()[0] for demo in compat.demos] == ["T0", "T1", "T2", "T3", "T4"]


def test_two_or_three_of_25_exemplars_have_the_querys_template():
    counts = Counter(len(r.demos) for r in corpus(shots=25, thinned=True).read("train"))
    assert set(counts) == {2, 3}
    authors = [len(r.demos) for r in corpus(shots=25, thinned=True, compat=True).read("train")]
    assert authors == [3, 2, 3, 2, 3, 3, 2, 3, 2, 3] * 3


@pytest.mark.parametrize("compat", [False, True])
def test_shards_are_every_nth_record(compat):
    whole = corpus(shots=2, compat=compat)
    records = list(whole.read("train"))
    for shard in range(4):
        assert list(whole.read_shard("train", shard, 4)) == records[shard::4]


def test_records_are_the_same_in_another_process():
    code = (
        "from tests.instructions.flan.test_corpus import corpus, FORMATS;"
        "print([r.to_json() for r in corpus(shots=2, formats=FORMATS).read('validation')])"
    )
    root = Path(__file__).resolve().parents[3]
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=root
    )
    records = corpus(shots=2, formats=FORMATS).read("validation")
    assert run.stdout.strip() == str([record.to_json() for record in records])


def test_everything_that_changes_a_record_changes_the_fingerprint():
    prints = [
        corpus(**mode).fingerprint()
        for mode in (
            {},
            {"seed": 1},
            {"compat": True},
            {"shots": 2},
            {"formats": FORMATS},
            {"templates": NUMBERED[:9]},
        )
    ]
    assert len(set(prints)) == len(prints)


def test_few_shot_prompts_need_training_rows(tmp_path):
    @dataclass(frozen=True)
    class Bare(Sums):
        splits = ("validation",)

    bare = TemplatedCorpus(task="sums", rows=Bare(), mode=Mode(templates=NUMBERED, shots=1))
    with pytest.raises(ValueError, match="need a train split"):
        list(bare.read("validation"))
    with pytest.raises(ValueError, match="one template or more"):
        Mode(templates=())
