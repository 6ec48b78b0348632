"""Self-Instruct, Alpaca and Unnatural Instructions: rows, templates, prompts."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace

import pytest

from ul2tune.instructions import alpaca, self_instruct, unnatural
from ul2tune.instructions.records import Record
from ul2tune.instructions.self_instruct import Templates

SEED = {
    "id": "seed_task_0",
    "name": "capital",
    "instruction": " Name the capital. ",
    "instances": [{"input": "Country: Peru", "output": "Lima "}, {"input": "", "output": "Oslo"}],
    "is_classification": True,
}
TWO = Templates(
    with_input=(
        ("{instruction}|{input}|", "{output}<|endoftext|>"),
        ("{input}?{instruction}", " {output}"),
    ),
    without_input=(("{instruction}.", "{output}"),),
)


def parsed(row) -> tuple[Record, ...]:
    return self_instruct.parse(row, "f:1", "f-1")


def test_seed_tasks():
    first, second = parsed(SEED)
    assert (first.id, first.category, first.instruction) == (
        "seed_task_0-0",
        "classification",
        " Name the capital. ",
    )
    assert (second.id, second.input, second.targets) == ("seed_task_0-1", "", ("Oslo",))
    assert parsed({**SEED, "is_classification": False})[0].category == "generation"


def test_other_layouts():
    (user,) = parsed(
        {
            "id": "u",
            "motivation_app": "Mail",
            "instruction": "a",
            "instances": SEED["instances"][:1],
        }
    )
    assert (user.id, user.category) == ("u-0", "Mail")
    (generated,) = parsed({"instruction": "a", "input": "b", "output": "c"})
    assert (generated.id, generated.input, generated.targets) == ("f-1", "b", ("c",))
    (rendered,) = parsed({"prompt": "a {b}\n", "completion": " c<|endoftext|>"})
    text = self_instruct.render(rendered, 0, label_drop=1.0)
    assert (text.inputs, text.targets) == ("a {b}\n", " c")


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"instruction": 1}, "f:1: 'instruction' must be a string, got 1"),
        ({"instruction": "a"}, "f:1: 'output' must be a string, got None"),
        (
            {**SEED, "is_classification": "no"},
            "'is_classification' must be true or false, got 'no'",
        ),
        ({**SEED, "instances": [{"input": "a"}]}, r"f:1: instances\[0\]: 'output' must be"),
        ({**SEED, "instances": None}, "'instances' must be a list of objects"),
    ],
)
def test_wrong_rows(row, message):
    with pytest.raises(ValueError, match=message):
        parsed(row)


def test_default_templates():
    first, second = parsed(SEED)
    one, two = self_instruct.render(first, 0), self_instruct.render(second, 0)
    assert (one.inputs, one.targets) == (
        "Name the capital.\nInput: Country: Peru\nOutput:",
        " Lima",
    )
    assert (two.inputs, two.targets) == ("Name the capital.\n\n", "Oslo")


def test_a_templates_number_decides():
    first, second = parsed(SEED)
    given = [
        self_instruct.render(replace(first, template_id=str(i)), 0, templates=TWO) for i in (0, 1)
    ]
    assert [(g.inputs, g.targets) for g in given] == [
        ("Name the capital.|Country: Peru|", "Lima"),
        ("Country: Peru?Name the capital.", " Lima"),
    ]
    kept = self_instruct.render(replace(first, template_id="0"), 0, templates=TWO, keep_end=True)
    assert kept.targets == "Lima<|endoftext|>"
    assert self_instruct.render(second, 3, templates=TWO).inputs == "Name the capital.."


def test_draws_depend_on_seed_and_record():
    (first, _) = parsed(SEED)
    records = [replace(first, id=str(i)) for i in range(200)]

    def prompts(seed):
        return [
            self_instruct.render(r, seed, templates=TWO, label_drop=0.5).inputs for r in records
        ]

    assert prompts(0) == prompts(0)
    assert prompts(0) != prompts(1)
    counts = Counter(prompts(0))
    assert len(counts) == 4  # two templates, with and without the label
    assert min(counts.values()) > 25


def test_what_is_empty_without_its_label_has_no_input():
    (first, _) = parsed(SEED)
    text = self_instruct.render(replace(first, input="Input:\n"), 0, label_drop=1.0)
    assert text.inputs == "Name the capital.\n\n"


def test_braces_in_an_instance_stay():
    (first, _) = parsed(SEED)
    text = self_instruct.render(replace(first, instruction="{input} {0.x}"), 0)
    assert text.inputs == "{input} {0.x}\nInput: Country: Peru\nOutput:"


def test_labels():
    assert self_instruct.drop_label("A: b\n\nc") == "b\nc"
    assert self_instruct.drop_label("A: b A: c") == "b A: c"
    assert self_instruct.drop_label(" no label\n\n\n") == "no label"


def test_templates_from_the_authors_program(tmp_path):
    path = tmp_path / "prepare.py"
    path.write_text(
        "import os\nraise SystemExit\ndef encode():\n"
        "    encoding_templates_w_input = [('{instruction}+{input}', '{output}')]\n"
        "    encoding_templates_wo_input = [\n"
        "        ('{instruction}', '{output}'), ('! {instruction}', '{output}')]\n"
    )
    templates = self_instruct.load_templates(path)
    assert templates.with_input == (("{instruction}+{input}", "{output}"),)
    assert [prompt for prompt, _ in templates.without_input] == ["{instruction}", "! {instruction}"]


GOOD = {
    "with_input": [["{instruction}{input}", "{output}"]],
    "without_input": [["{instruction}", "{output}"]],
}


def test_templates_from_json(tmp_path):
    path = tmp_path / "t.json"
    path.write_text(json.dumps(GOOD))
    assert self_instruct.load_templates(path).without_input == (("{instruction}", "{output}"),)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"with_input": 1}, r"t\.json: 'with_input' must be a list of pairs"),
        ({"without_input": [["a"]]}, "'without_input' must be a list of pairs"),
        ({"with_input": []}, "'with_input' holds no template"),
        ({"with_input": [["{instruction}", "{output}"]]}, "must have exactly {input} and"),
        ({"without_input": [["{instruction}", "x"]]}, "'x' must have exactly {output}"),
        ({"without_input": [["{instruction}{x}", "{output}"]]}, "must have exactly {instruction}"),
    ],
)
def test_wrong_templates(tmp_path, change, message):
    path = tmp_path / "t.json"
    path.write_text(json.dumps({**GOOD, **change}))
    with pytest.raises(ValueError, match=message):
        self_instruct.load_templates(path)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("x = 1", "assigns no list of the name 'encoding_templates_w_input'"),
        ("def", "t.py:1: not valid Python"),
        ("encoding_templates_w_input = open('x')", "malformed node"),
    ],
)
def test_wrong_programs(tmp_path, source, message):
    path = tmp_path / "t.py"
    path.write_text(source)
    with pytest.raises(ValueError, match=message):
        self_instruct.load_templates(path)


def test_the_authors_files(shared):
    folder = shared / "data/self_instruct"
    seeds = list(self_instruct.load(folder / "seed_tasks.jsonl"))
    assert len(seeds) == 175
    assert Counter(r.category for r in seeds) == {"generation": 149, "classification": 26}
    asked = list(self_instruct.load(folder / "user_oriented_instructions.jsonl"))
    assert len(asked) == 252
    assert all(self_instruct.render(r, 0).targets.strip() == r.targets[0].strip() for r in asked)
    for path in (folder / "t0_data_per_template_head60").glob("*.jsonl"):
        rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        texts = [self_instruct.render(r, 0) for r in self_instruct.load(path)]
        assert [t.inputs for t in texts] == [row["prompt"] for row in rows]
        ends = [row["completion"].removesuffix("<|endoftext|>") for row in rows]
        assert [t.targets for t in texts] == ends


def test_alpaca(tmp_path):
    path = tmp_path / "alpaca_data.json"
    rows = [
        {"instruction": "Add {x}.", "input": "1 2", "output": "3"},
        {"instruction": "Go.", "output": "ok"},
    ]
    path.write_text(json.dumps(rows))
    first, second = map(alpaca.render, alpaca.load(path))
    assert first.inputs == (
        "Below is an instruction that describes a task, paired with an input that provides further "
        "context. Write a response that appropriately completes the request.\n\n"
        "### Instruction:\nAdd {x}.\n\n### Input:\n1 2\n\n### Response:"
    )
    assert first.targets == "3"
    assert second.inputs == (
        "Below is an instruction that describes a task. Write a response that appropriately "
        "completes the request.\n\n### Instruction:\nGo.\n\n### Response:"
    )
    with pytest.raises(ValueError, match="'output' is missing"):
        alpaca.parse({"instruction": "a"}, "f:1", "x")


UNNATURAL = {
    "instruction": "Double it.",
    "instances": [
        {
            "input": "2",
            "instruction_with_input": "Double it.\nInput: 2",
            "constraints": "None",
            "output": "4",
        }
    ],
    "reformulations": [
        {"instruction": "Twice?", "input": "3", "instruction_with_input": "Twice? 3", "output": "6"}
    ],
}


def test_unnatural(tmp_path):
    path = tmp_path / "full_data.jsonl"
    path.write_text(json.dumps(UNNATURAL) + "\n")
    records = list(unnatural.load(path))
    assert [r.id for r in records] == ["full_data-1-i0", "full_data-1-r0"]
    texts = [unnatural.render(r) for r in records]
    assert [(t.inputs, t.targets) for t in texts] == [
        ("Double it.\nInput: 2", "4"),
        ("Twice? 3", "6"),
    ]
    assert len(list(unnatural.load(path, reformulations=False))) == 1
    with pytest.raises(ValueError, match=r"f:1: instances\[0\]: 'instruction_with_input' must be"):
        unnatural.parse({**UNNATURAL, "instances": [{}]}, "f:1", "x")
