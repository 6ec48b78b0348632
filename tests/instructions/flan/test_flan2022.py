"""Flan 2022: which prompts a task has, in the authors' tables and in a tiny Flan of our own."""

from __future__ import annotations

import json
from collections import Counter

import pytest

from tests.instructions import tiny_flan
from ul2tune.instructions import few_shot
from ul2tune.instructions.flan import flan2022
from ul2tune.instructions.flan.corpus import Row, TemplatedCorpus, fill
from ul2tune.instructions.flan.flan2022 import Family, Tables, prompting
from ul2tune.instructions.flan.rows import NIv2Rows
from ul2tune.instructions.reading import read_json
from ul2tune.instructions.records import Demo, Record


@pytest.fixture
def tables(tmp_path) -> Tables:
    return Tables.load(tiny_flan.write_tables(tmp_path))


RTE = Row(
    id="r",
    fields={"premise": "It rains.", "hypothesis": "It is wet.", "answer": "yes"},
    options=("yes", "no"),
)


def test_options_are_styled_fixed_or_taken_out(tables):
    texts = {}
    for family in FAMILIES:
        mode, layout = prompting(tables, "rte", family)
        filled = fill(RTE, mode.templates[0], formats=mode.formats)
        texts[family] = (mode.style, layout is None, filled.inputs, filled.targets[0])
    assert texts == {
        "zs_opt": (
            "zs_opt",
            True,
            "It rains.\nFollows? It is wet.\n\nPick:\n(A) yes\n(B) no",
            "(A)",
        ),
        "zs_noopt": ("zs_noopt", True, "It rains. Hence It is wet.?", "yes"),
        "fs_opt_mix": (
            "fs_opt",
            False,
            "Q: It rains. It is wet.\nOPTIONS:\n- yes\n- no\nA: ",
            "yes",
        ),
        "fs_opt_x": (
            "fs_opt",
            False,
            "P: It rains. It is wet. OPTIONS:\n- yes\n- no\nA: ",
            "yes",
        ),
        "fs_noopt_x": ("fs_noopt", False, "P: It rains. It is wet.\nA: ", "yes"),
    }


def test_the_mix_and_the_x_shot_layouts(tables):
    mix, layout = prompting(tables, "rte", "fs_opt_mix")
    assert (mix.shots, mix.own_templates, len(mix.templates)) == (5, True, 1)
    assert layout is not None
    assert (layout.separators, layout.draw_by) == (("\n", "\n\n", "\n\n\n"), "example")
    x_shot, layout = prompting(tables, "rte", "fs_opt_x")
    assert (x_shot.shots, x_shot.thinned, len(x_shot.templates)) == (25, True, 2)
    assert layout is not None
    assert (layout.separators, layout.strip_targets) == (("\n\n", "\n--\n"), True)
    assert layout.max_tokens == 1920


def test_compat_changes_what_it_says(tables):
    mix, layout = prompting(tables, "rte", "fs_opt_mix", compat=True)
    assert mix.compat
    assert layout is not None
    assert (layout.draw_by, layout.count_separators, layout.drop_bare) == ("task", False, True)
    _, natural = prompting(tables, "task1_x", "fs_opt_x", compat=True)
    assert natural is not None
    assert (natural.strip_targets, natural.max_tokens) == (False, None)
    assert flan2022.sequence_lengths(compat=True) == {"inputs": 2056, "targets": 512}
    assert flan2022.sequence_lengths() == {"inputs": 2048, "targets": 512}


def test_answers_of_compat_end_with_a_separator_that_is_no_white_space(tables):
    texts = {}
    for compat in (False, True):
        mode, layout = prompting(tables, "rte", "fs_noopt_x", compat=compat)
        assert layout is not None
        for number, template in enumerate(mode.templates):
            filled = fill(RTE, template)
            demo = Demo(id="d", input="Q", target=filled.targets[0])
            record = Record(
                id="r",
                task="rte",
                input="I",
                targets=filled.targets,
                demos=(demo,),
                template_id=str(number),
            )
            rendered = few_shot.render(record, 0, layout=layout)
            assert rendered is not None
            texts[compat, number] = (rendered.inputs, rendered.targets)
    assert texts == {
        (False, 0): ("Qyes\n\nI", "yes"),
        (True, 0): ("Qyes\n\nI", "yes"),
        (False, 1): ("Qyes\n--\nI", "yes"),
        (True, 1): ("Qyes\n--\nI", "yes\n--"),
    }


def test_natural_instructions(tables, tmp_path):
    path = tmp_path / "task001_spell.json"
    path.write_text(json.dumps(tiny_flan.SPELL))
    prompts = {}
    for family in (FAMILIES[0], FAMILIES[2], FAMILIES[3]):
        mode, layout = prompting(tables, path.stem, family)
        corpus = TemplatedCorpus(task=path.stem, rows=NIv2Rows(path=str(path)), mode=mode)
        record = next(corpus.read("train"))
        rendered = few_shot.render(record, 0, layout=layout or few_shot.Layout())
        assert rendered is not None
        prompts[family] = rendered
        assert rendered.targets == "n0"
    assert prompts["zs_opt"].inputs == "Spell the number.\n\n0"
    assert prompts["fs_opt_mix"].inputs == "Spell the number.\n20: twenty (two tens)\n0"
    first, second = (demo.removeprefix("i") for demo in prompts["fs_opt_x"].demo_ids)
    assert prompts["fs_opt_x"].inputs == (
        f"Spell the number.\n\nI: {first}\nA: n{first}\n\nI: {second}\nA: n{second}\n\nI: 0\nA:"
    )
    with pytest.raises(ValueError, match="no family 'zs_noopt'"):
        prompting(tables, path.stem, "zs_noopt")


def test_the_tasks_with_a_number_of_shots(tables):
    pattern = tables.few_shot["rte"][1]
    mode, layout = flan2022.numbered_shots(pattern, 2)
    filled = fill(RTE, mode.templates[0])
    demos = (Demo(input=filled.inputs, target="yes"),)
    record = Record(id="q", task="rte", input=filled.inputs, targets=("no",), demos=demos)
    rendered = few_shot.render(record, 0, layout=layout)
    assert rendered is not None
    options = "OPTIONS:\n- yes\n- no"
    body = f"Q: It rains. It is wet.\n{options}\nA:"
    assert rendered.inputs == f"{body} yes\n--\n{body}"


def test_tasks_from_mmlu_are_left_out():
    kept = [n for n in range(600, 800) if flan2022.keep_niv2(f"task{n}_x")]
    assert len(kept) == 200 - 57
    assert not {664, 667, 685, 737} & set(kept)
    assert {663, 668, 684, 738} <= set(kept)
    with pytest.raises(ValueError, match="'rte' is not the name"):
        flan2022.keep_niv2("rte")


def test_categories_come_from_the_list_if_it_is_there(tmp_path):
    tiny_flan.write_tables(tmp_path)
    assert flan2022.category(Tables.load(tmp_path), "rte") == ""
    path = tmp_path / "flan_collection_info.csv"
    path.write_text(
        "Source,Dataset,Specific Task Category,Generic Task Category,Languages\n"
        "FLAN,mnli,NLI,Entailment,English\nT0,toys,toy_prompt,Questions,English\n"
    )
    tables = Tables.load(tmp_path)
    tasks = ("mnli_matched", tiny_flan.T0, "qrecc_input_inversion", "rte")
    assert [flan2022.category(tables, task) for task in tasks] == [
        "Entailment",
        "Questions",
        "Input Inversion",
        "",
    ]
    path.write_text("Source,Dataset\n")
    with pytest.raises(ValueError, match="no column 'Generic Task Category'"):
        Tables.load(tmp_path)


def test_inverted_tasks_are_marked(tables):
    assert prompting(tables, "cot_input_inversion_gsm8k", "zs_opt")[0].inverted
    assert not prompting(tables, "cot_gsm8k", "zs_opt")[0].inverted


def test_a_task_without_patterns_and_wrong_tables_are_named(tables, tmp_path):
    for family in FAMILIES:
        with pytest.raises(
            ValueError, match=f"no group 'anli', which 'anli_r1' needs .* '{family}'"
        ):
            prompting(tables, "anli_r1", family)
    cases = tmp_path / "cases.json"
    cases.write_text('{"rte": {"zero_shot": 1}}')
    with pytest.raises(ValueError, match="'rte' must give a count to each"):
        flan2022.load_num_cases(cases)
    cases.write_text('{"x": {"task_type": "t", "in_flan": "no", "splits": {}}}')
    with pytest.raises(ValueError, match="task 'x' needs a bool"):
        flan2022.load_t0_tasks(cases)


@pytest.fixture(scope="module")
def authors(shared) -> Tables:
    return Tables.load(shared / "data" / "flan")


def test_the_authors_tables(authors):
    assert len(authors.num_cases) == 287
    kinds = Counter(task.task_type for task in authors.t0.values())
    assert kinds == {
        "t0_question_answer": 184,
        "t0_multiple_choice": 263,
        "t0_multiple_choice_separated_options": 97,
        "t0_multiple_choice_score_eval": 116,
    }
    assert sum(task.in_flan for task in authors.t0.values()) == 467
    assert len(flan2022.t0_tasks(authors.t0)) == 193
    inverted = authors.zero_shot["cot_input_inversion_gsm8k"]
    assert len(inverted) == 18  # the general templates of input inversion
    without = [task for task in authors.num_cases if not flan2022.category(authors, task)]
    assert len(without) == 6  # five chains of thought that the list calls otherwise, and NIv2


FAMILIES: tuple[Family, ...] = ("zs_opt", "zs_noopt", "fs_opt_mix", "fs_opt_x", "fs_noopt_x")


def test_every_task_of_the_authors_has_its_prompts(authors):
    for task in authors.num_cases:
        for family in FAMILIES:
            if task == flan2022.NIV2 and "noopt" in family:
                continue
            _, layout = prompting(authors, task, family)
            single = family.startswith("zs") or (task == flan2022.NIV2 and family == "fs_opt_mix")
            assert (layout is None) == single


def test_natural_instructions_of_the_authors(shared):
    metadata = read_json(shared / "data" / "flan" / "v2_niv2_metadata.json")
    assert len(metadata) == 1654
    assert sum(map(flan2022.keep_niv2, metadata)) == 1597
