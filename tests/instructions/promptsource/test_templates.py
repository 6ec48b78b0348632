"""PromptSource's files and rendering."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import pytest

from ul2tune.instructions.promptsource import rows as promptsource_rows
from ul2tune.instructions.promptsource import templates
from ul2tune.instructions.promptsource.templates import Prompt, Template

ROOT = Path(__file__).resolve().parents[3]
EXAMPLES = Path(__file__).parent
FERRY = {"log": "Left at 9:00.", "label": 0, "piers": ["North", "South"], "from-pier": 1}


def prompt(jinja: str, answer_choices: str | None = None, **options) -> Prompt:
    template = Template(
        name="t", id="1", jinja=jinja, where="test.yaml:1", answer_choices=answer_choices
    )
    return template.compile(**options)


def test_files_are_read():
    found = templates.load_folder(EXAMPLES)
    assert sorted(found, key=str) == [("harbour", "ferries"), ("weather", None)]
    ferries = found["harbour", "ferries"]
    assert ferries.names == ("Which pier", "invent", "on time?")
    assert [t.name for t in ferries.templates] == ["on time?", "Which pier", "invent"]
    template = ferries["on time?"]
    assert template.where.endswith("templates.yaml:4")
    assert template.answer_choices == "Yes ||| No"
    assert template.metrics == ("Accuracy",)
    assert template.original_task
    assert template.choices_in_prompt is False
    assert ferries["invent"].choices_in_prompt is None
    assert ferries["invent"].answer_choices is None
    with pytest.raises(KeyError, match="has no template 'nope'"):
        ferries["nope"]


def test_rows_are_rendered():
    ferries = templates.load(EXAMPLES / "harbour" / "ferries" / "templates.yaml")
    found = templates.render(ferries["on time?"], FERRY)
    assert found is not None
    assert found.inputs == "Left at 9:00.\nDid it leave on time?"
    assert (found.targets, found.answer_choices) == ("Yes", ("Yes", "No"))
    unlabelled = templates.render(ferries["on time?"], FERRY | {"label": -1})
    assert unlabelled is not None
    assert unlabelled.targets == "<NO LABEL>"
    assert templates.render(ferries["invent"], FERRY) is None
    assert ferries["invent"].compile().apply(FERRY) == [""]
    assert ferries["on time?"].compile().fixed_choices == ("Yes", "No")
    assert ferries["Which pier"].compile().fixed_choices is None


def test_columns_with_hyphens_and_random_wording():
    template = templates.load(EXAMPLES / "harbour/ferries/templates.yaml")["Which pier"]
    found = {seed: templates.render(template, FERRY, seed=seed) for seed in range(20)}
    assert {r.targets for r in found.values() if r} == {"South"}
    assert {r.inputs for r in found.values() if r} == {
        f"{start} did it leave? 1. North 2. South" for start in ("From which pier", "Where from")
    }
    assert template.compile().is_random


def test_long_text_is_cut_at_a_word():
    words = " ".join(["word"] * 1000)
    cut = prompt("{{text}} ||| {{text|length}}").apply({"text": words})
    assert cut == [words[:2045].rsplit(" ", 1)[0] + "...", "4999"]
    assert prompt("{{text}}", truncate=False).apply({"text": words}) == [words]
    # 2,053 characters are still whole: Jinja's leeway.
    assert prompt("{{text}}").apply({"text": "x" * 2053}) == ["x" * 2053]
    assert prompt("{{text}}").apply({"text": "x" * 2054}) == ["x" * 2045 + "..."]


def test_insertion_is_textual():
    # The filters bind to what stands last, and numbers become text.
    assert prompt("{{ 'x' * n }}", truncate=False).apply({"n": 2}) == ["xx"]
    with pytest.raises(ValueError, match="can't multiply sequence by non-int of type 'str'"):
        prompt("{{ 'x' * n }}").apply({"n": 2})
    assert prompt("{{ n }}").apply({"n": 2.50}) == ["2.5"]
    assert prompt("{{ 'a' if n else 'b' * 9 }}").apply({"n": 1}) == ["a"]


def test_separators_in_a_row_separate_nothing():
    parts = prompt("{{text}} ||| {{ answer_choices[1] }}", "{{text}} ||| b").apply(
        {"text": "a|||c"}
    )
    assert parts == ["a|||c", "b"]
    assert prompt("{{ l[0] }} ||| b").apply({"l": ["a ||| c"]}) == ["a", "c", "b"]
    assert templates.render(prompt("{{ l[0] }} ||| b"), {"l": ["a ||| c"]}) is None
    assert templates.render(prompt("only an input"), {}) is None
    assert templates.render(prompt("||| only a target"), {}) is None


def test_choices_that_are_no_choice():
    both = templates.render(
        prompt("q ||| {{answer_choices[0]}}", "{{a}} ||| {{b}} ||| {{a}}"), {"a": "x", "b": "y"}
    )
    assert both is not None
    assert both.answer_choices == ("x", "y")
    single = templates.render(prompt("q ||| a", "{{a}} ||| {{a}}"), {"a": "x"})
    assert single is not None
    assert single.answer_choices == ()


def test_the_row_is_left_as_it_was():
    row = {"l": ["a"]}
    growing = prompt("{{ l.append('b') or '' }}{{ l|join }} ||| t")
    assert growing.apply(row) == growing.apply(row) == ["ab", "t"]
    assert row == {"l": ["a"]}


def test_errors_name_file_line_and_template():
    with pytest.raises(ValueError, match=r"^test.yaml:1: template 't': the row has a column"):
        prompt("{{a}}").apply({"answer_choices": 1})
    with pytest.raises(ValueError, match=r"^test.yaml:1: template 't': is no valid template"):
        prompt("{{a")
    with pytest.raises(ValueError, match=r"'t', answer_choices: refused, because"):
        prompt("{{a}}", "{{ 'a' * 10**9 }}").apply({})


BAD = {
    "not: [closed": r":\d+: not valid YAML",
    "- a list": "expected the keys dataset and templates",
    "dataset: a": r":1: the key 'templates' is missing",
    "dataset: 1\ntemplates: {}": r":1: 'dataset' must be text",
    "dataset: a\nmore: 1\ntemplates: {}": r":2: unknown key 'more'",
    "dataset: a\ntemplates:\n  x: {name: a}": r":3: template 'x' must have the tag !Template",
    "dataset: a\ntemplates:\n  x: !Template {name: a}": r":3: the key 'jinja' is missing",
    "dataset: a\ntemplates:\n  x: !Template {name: a, jinja: 1}": r":3: 'jinja' must be text",
    "dataset: a\ntemplates:\n  x: !Template {name: a, jinja: b, name: c}": r"'name' appears twice",
    "dataset: a\ntemplates:\n  x: !Template {name: a, jinja: b}\n"
    "  y: !Template {name: a, jinja: b}": r":4: the name 'a' is already that of line 3",
    "dataset: a\ntemplates: !!python/object/apply:os.system ['true']": r":2: templates must be",
    "dataset: a\ntemplates:\n  x: !Template {name: a, jinja: b, "
    "metadata: !TemplateMetadata {original_task: 3}}": r":3: 'original_task' must be true or false",
    "[" * 100000: ":1: nested more than 10 deep",
}


@pytest.mark.parametrize("text", BAD, ids=range(len(BAD)))
def test_a_bad_file_gives_file_line_and_reason(text: str, tmp_path: Path):
    path = tmp_path / "templates.yaml"
    path.write_text(text)
    with pytest.raises(ValueError, match=BAD[text]) as error:
        templates.load(path)
    assert str(error.value).startswith(str(path))


def test_rows_become_records(tmp_path: Path):
    path = tmp_path / "train.jsonl"
    rows = [FERRY, FERRY | {"label": 1}, FERRY | {"label": -1}]
    path.write_text("\n".join(json.dumps(row) for row in rows) + "\n\n")
    template = templates.load(EXAMPLES / "harbour/ferries/templates.yaml")["invent"]
    assert promptsource_rows.find_rows(tmp_path.parent, tmp_path.name, None) == (
        ("train", str(path)),
    )
    corpus = promptsource_rows.PromptedRows(
        name="harbour_ferries_invent",
        dataset_name="harbour_ferries",
        template=template,
        row_files=(("train", str(path)),),
    )
    (record,) = corpus.read("train")
    assert (record.id, record.task) == ("train-2", "harbour_ferries")
    assert (record.input, record.targets) == ("Write the log of a late ferry.", ("Left at 9:00.",))
    assert (record.template_id, record.metric_names) == (template.id, ("rouge_l",))
    before = corpus.fingerprint()
    path.write_text(json.dumps(FERRY) + "\n")
    assert corpus.fingerprint() != before
    path.write_text("{}\n[1]\n")
    with pytest.raises(ValueError, match=rf"^{path}:2: expected a JSON object, got list"):
        list(corpus.read("train"))


def test_rows_are_equal_in_another_process():
    code = (
        "from tests.instructions.promptsource.test_templates import *\n"
        "t = templates.load(EXAMPLES / 'harbour/ferries/templates.yaml')['Which pier']\n"
        "print([templates.render(t, FERRY, seed=s).inputs for s in range(9)])"
    )
    outputs = set()
    for hash_seed in ("1", "2"):
        environment = {"PYTHONHASHSEED": hash_seed, "PATH": ""}
        result = subprocess.run(
            [sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, check=True
        )
        outputs.add(result.stdout)
    template = templates.load(EXAMPLES / "harbour/ferries/templates.yaml")["Which pier"]
    found = [templates.render(template, FERRY, seed=seed) for seed in range(9)]
    assert outputs == {f"{[r.inputs for r in found if r]}\n".encode()}


def test_golden_renders(shared: Path):
    folder = shared / "data" / "promptsource"
    files = templates.load_folder(folder)
    assert (len(files), sum(len(f.templates) for f in files.values())) == (279, 2085)
    rows = {
        (entry["dataset"], entry["subset"]): entry["rows"]
        for entry in json.loads((folder / "golden_rows.json").read_text())
    }
    lines = (folder / "golden_renders.jsonl").read_text().splitlines()
    for golden in map(json.loads, lines):
        key = (golden["dataset"], golden["subset"])
        template = files[key][golden["template"]]
        compiled, row = template.compile(), rows[key][golden["row"]]
        assert compiled.apply(row, seed=0) == golden["parts"]
        assert compiled.answer_choices(row, seed=0) == golden["answer_choices"]
        fixed = compiled.fixed_choices
        assert (list(fixed) if fixed else None) == golden["fixed_choices"]
        assert compiled.is_random == golden["uses_random_choice"]
        assert template.original_task == golden["original_task"]
        if "parts_no_truncate_sha256" in golden:
            whole = template.compile(truncate=False).apply(row, seed=0)
            digests = [hashlib.sha256(part.encode()).hexdigest() for part in whole]
            assert digests == golden["parts_no_truncate_sha256"]
    assert len(lines) > 100


@pytest.mark.slow
def test_every_template_of_promptsource_compiles(shared: Path):
    for file in templates.load_folder(shared / "data" / "promptsource").values():
        for template in file.templates:
            template.compile()
