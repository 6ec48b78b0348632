"""UnifiedSKG's files and configurations: a folder to prompts, and the authors' goldens."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from ul2tune.instructions.records import Record
from ul2tune.instructions.skg import config, prompt
from ul2tune.instructions.skg import files as skg_files
from ul2tune.instructions.skg.config import TaskConfig
from ul2tune.instructions.skg.render import render

SHOP = {
    "db_id": "shop_1",
    "table_names_original": ["Item", "Sale"],
    "column_names_original": [[-1, "*"], [0, "Item_ID"], [0, "Name"], [1, "Item_ID"], [1, "Year"]],
    "foreign_keys": [[3, 1]],
    "primary_keys": [1],
}


def write_folder(folder: Path) -> Path:
    """A folder of all five tasks, in the layout of the real ones."""
    folder.mkdir(exist_ok=True)

    def lines(name: str, rows: list) -> None:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text("".join(json.dumps(row) + "\n" for row in rows))

    table = {"header": ["Year", "City"], "rows": [["1896", "Athens"], ["1900", "Paris"]]}
    (folder / "wikitq_tables.json").write_text(json.dumps({"t1": table}))
    question = {"question": "Which City?", "table_id": "t1", "answer_text": ["Athens", "Paris"]}
    lines("wikitq_train.jsonl", [{"id": f"nt-{i}", **question} for i in range(3)])
    lines("wikitq_dev.jsonl", [{"id": "nt-9", **question}])
    fact = {"table_id": "f1", "table": table, "statements": ["A b", "C"], "labels": [1, 0]}
    lines("tabfact_small_test.jsonl", [fact])
    notes = [{"source": "x", "text": "One."}, {"source": "y", "text": "Two."}]
    sets = [{"tripleset": [["A", "R", "B"]], "annotations": notes}] * 6
    lines("dart_train.jsonl", sets)
    lines("dart_dev.jsonl", sets)
    query = {"db_id": "shop_1", "question": " How many?", "query": "SELECT count(*) FROM Item"}
    (folder / "spider").mkdir(exist_ok=True)
    (folder / "spider" / "tables.json").write_text(json.dumps([SHOP]))
    (folder / "spider" / "dev.json").write_text(json.dumps([query]))
    turns = [
        {"system": "none", "user": "A Hotel", "state": {"slot_values": {"hotel-area": "north"}}},
        {"system": "Ok", "user": "Two", "state": {"slot_values": {"hotel-book people": "2"}}},
    ]
    ontology = {"hotel-area": ["north"], "hotel-book people": [], "police-name": []}
    lines("multiwoz/dev_dials.json", [{"dial_id": "d1", "domains": ["hotel"], "turns": turns}])
    (folder / "multiwoz" / "ontology.json").write_text(json.dumps(ontology))
    return folder


KINDS = ("wikitq", "tab_fact", "dart", "spider", "multiwoz")
TASKS = {kind: TaskConfig(name=kind, kind=kind) for kind in KINDS}


def test_folder_to_prompts(tmp_path):
    folder = write_folder(tmp_path / "data")
    found = {kind: skg_files.find(folder, task) for kind, task in TASKS.items()}
    assert {kind: files.splits for kind, files in found.items()} == {
        "wikitq": ("train", "validation"),
        "tab_fact": ("validation", "test"),
        "dart": ("train", "validation"),
        "spider": ("validation",),
        "multiwoz": ("validation",),
    }
    records = {kind: list(files.read("validation")) for kind, files in found.items()}
    last = {kind: render(rows[-1], 0) for kind, rows in records.items()}
    games = "structured knowledge: col : year | city row 1 : 1896 | athens row 2 : 1900 | paris"
    assert {kind: (shown.inputs, shown.targets) for kind, shown in last.items()} == {
        "wikitq": (f"which city? ; {games}", "athens, paris"),
        "tab_fact": (f"c ; {games}", "refuted"),
        "dart": ("structured knowledge: A : r : B", "One."),
        "spider": (
            "How many? ; structured knowledge: | shop_1 | item : item_id , name "
            "| sale : item_id , year",
            "select count(*) from item",
        ),
        "multiwoz": (
            "two ; structured knowledge: hotel-area: north; hotel-book people: none;  ; "
            "context: ok | a hotel | none",
            "hotel area none, hotel book people 2",
        ),
    }
    assert records["dart"][0].targets == ("One.", "Two.")
    train = list(found["dart"].read("train"))
    assert Counter(record.targets for record in train) == {("One.",): 6, ("Two.",): 6}
    assert len({record.id for record in train}) == 12
    assert last["tab_fact"].answer_choices == ("entailed", "refuted")


def test_what_a_task_configuration_changes(tmp_path):
    folder = write_folder(tmp_path / "data")

    def first(kind: str, split: str = "validation", **options):
        task = TaskConfig(name=kind, kind=kind, description="task: x", **options)
        records = list(skg_files.find(folder, task).read(split))
        return records, render(records[0], 0, task=task, describe=True, values=lambda *_: [])

    assert first("dart")[1].inputs == "task: x ; structured knowledge: A : r : B"
    records, shown = first("spider", db_id_in_target=True)
    assert shown.targets == "shop_1 | select count(*) from item"
    context = json.loads(records[0].metric_context)
    assert json.loads(shown.metric_context) == {**context, "db_id_in_target": True}
    assert not first("spider")[1].metric_context
    assert "contains tables such as" in first("spider", sentences=True)[1].inputs
    assert first("spider", cell_values=True)[1] == first("spider")[1]
    assert len(first("wikitq", "train", expansion=2)[0]) == 6
    assert len(first("dart", "train", few_shot=0.5)[0]) == 6
    records, shown = first("multiwoz", separate_slots=True)
    assert [record.targets[0] for record in records] == ["north", "none", "none", "2"]
    assert shown.inputs.startswith("task: x ; hotel-area: a hotel ; structured knowledge: ")
    record = first("spider")[0][0]
    with pytest.raises(ValueError, match="needs the databases"):
        render(record, 0, task=TaskConfig(name="s", kind="spider", cell_values=True))
    with pytest.raises(ValueError, match="not one of UnifiedSKG's"):
        render(Record(id="1", task="t", input="", targets=("x",)), 0)


def test_carving_keeps_tables_together_and_nothing_twice(tmp_path):
    (tmp_path / "dart_dev.jsonl").write_text(
        "".join(
            json.dumps({"tripleset": [["a", "b", str(i)]], "annotations": [{"text": str(i)}]})
            + "\n"
            for i in range(200)
        )
    )
    files = skg_files.find(tmp_path, TASKS["dart"], carve=0.75)
    parts = {s: {r.targets[0] for r in files.read(s)} for s in ("train", "validation")}
    assert not parts["train"] & parts["validation"]
    assert len(parts["train"] | parts["validation"]) == 200
    assert 130 < len(parts["train"]) < 170
    assert skg_files.find(tmp_path, TASKS["dart"]).splits == ("validation",)
    (tmp_path / "dart_dev.jsonl").rename(tmp_path / "dart_test.jsonl")
    assert skg_files.find(tmp_path, TASKS["dart"]).splits == ("validation", "test")
    assert skg_files.find(tmp_path, TASKS["dart"], carve=0.5).splits == ("train", "validation")
    with pytest.raises(ValueError, match="carve must be a share"):
        skg_files.find(tmp_path, TASKS["dart"], carve=1.0)


@pytest.mark.parametrize(
    ("kind", "file", "content", "reason"),
    [
        ("wikitq", "wikitq_dev.jsonl", '\n{"id": 3', r"wikitq_dev.jsonl:2: not valid"),
        ("wikitq", "wikitq_dev.jsonl", b"\xff\n", r"wikitq_dev.jsonl:1: not valid"),
        (
            "wikitq",
            "wikitq_dev.jsonl",
            "[3]",
            r"wikitq_dev.jsonl\[0\]: expected an object, got int",
        ),
        ("wikitq", "wikitq_dev.jsonl", "[" * 100_000, r"wikitq_dev.jsonl: not valid"),
        (
            "wikitq",
            "wikitq_dev.jsonl",
            '{"id": "a", "question": "q", "table_id": "t2", "answer_text": ["x"]}',
            r"wikitq_dev.jsonl:1: .*wikitq_tables.json has no table 't2'",
        ),
        ("wikitq", "wikitq_tables.json", '{"t1": {"header": []}}', "'header' and 'rows'"),
        (
            "wikitq",
            "wikitq_tables.json",
            '{"t1": {"header": [], "rows": [["a"], [null]]}}',
            "'t1': row 2 must hold text and numbers, got None",
        ),
        (
            "tab_fact",
            "tabfact_small_test.jsonl",
            '{"table_id": "a", "table": {"header": [], "rows": []}, "statements": ["s"], '
            '"labels": [2]}',
            r"tabfact_small_test.jsonl:1: label 0 must be 0 or 1, got 2",
        ),
        (
            "dart",
            "dart_dev.jsonl",
            '{"tripleset": [["a"]], "annotations": [{"text": ""}]}',
            "three",
        ),
        (
            "dart",
            "dart_dev.jsonl",
            '{"tripleset": [], "annotations": [3]}',
            r"annotations\[0\] must",
        ),
        (
            "dart",
            "dart_dev.jsonl",
            '{"tripleset": [], "annotations": []}',
            "'annotations' is empty",
        ),
        (
            "dart",
            "dart_dev.jsonl",
            '{"tripleset": [], "annotations": [{}]}',
            "'text' must be a str",
        ),
        ("spider", "spider/dev.json", '[{"db_id": "x", "question": "", "query": ""}]', "'x'"),
        (
            "multiwoz",
            "multiwoz/dev_dials.json",
            '{"dial_id": "d", "turns": [{}]}',
            "turn 0: 'user'",
        ),
        ("multiwoz", "multiwoz/ontology.json", '{"hotel-area": 3}', "slot 'hotel-area'"),
    ],
)
def test_malformed_files_name_file_line_and_reason(tmp_path, kind, file, content, reason):
    folder = write_folder(tmp_path / "data")
    data = content if isinstance(content, bytes) else content.encode()
    (folder / file).write_bytes(data)
    with pytest.raises(ValueError, match=reason):
        list(skg_files.find(folder, TASKS[kind]).read("validation"))


def test_missing_and_ambiguous_files(tmp_path):
    folder = write_folder(tmp_path / "data")
    (folder / "dart_dev.v2.jsonl").write_text("")
    with pytest.raises(ValueError, match=r"several files for 'validation' of 'dart'.*Leave one"):
        skg_files.find(folder, TASKS["dart"])
    (folder / "wikitq_tables.json").unlink()
    with pytest.raises(ValueError, match="'wikitq' needs one file"):
        skg_files.find(folder, TASKS["wikitq"])
    assert skg_files.find(tmp_path, TASKS["dart"]).splits == ()


def test_multiwoz_as_the_authors_make_it(tmp_path):
    """Slots and their order are the ontology's, values the descriptions'."""
    folder = write_folder(tmp_path / "data")
    plain = skg_files.find(folder, TASKS["multiwoz"])
    before = plain.fingerprint()
    harvested = {
        "police-name": ["x"],
        "hotel-book people": ["2"],
        "hotel-Area": ["north", "a name"],
    }
    (folder / "multiwoz" / "ontology.json").write_text(json.dumps(harvested))
    file = folder / "multiwoz" / "slot_description.json"
    values = {"hotel-area": ["north", "dontcare"], "hotel-book people": [], "taxi-area": ["x"]}
    file.write_text(json.dumps({s: {"values": v, "naive": s} for s, v in values.items()}))
    found = skg_files.find(folder, TASKS["multiwoz"])
    shown = render(next(iter(found.read("validation"))), 0)
    assert shown.inputs == (
        "a hotel ; structured knowledge: hotel-book people: none; hotel-area: north, dontcare;  ; "
        "context: none | "
    )
    assert shown.targets == "hotel book people none, hotel area north"
    described = found.fingerprint()
    file.write_text('{"hotel-area": {"values": []}}')
    assert len({before, described, found.fingerprint()}) == 3
    with pytest.raises(ValueError, match=r"slot_description.json has no slot 'hotel-book people'"):
        list(found.read("validation"))


def test_spider_as_it_is_released(tmp_path):
    folder = write_folder(tmp_path / "data")
    spider = folder / "spider"
    for name in ("train_spider.json", "train_others.json", "test.json", "test_tables.json"):
        (spider / name).write_bytes((spider / "dev.json").read_bytes())
    found = skg_files.find(folder, TASKS["spider"])
    names = {split: Path(file).name for split, file in found.files.items()}
    assert names == {"train": "train_spider.json", "validation": "dev.json", "test": "test.json"}
    assert found.support == str(spider / "tables.json")
    (spider / "train_spider.json").unlink()
    assert skg_files.find(folder, TASKS["spider"]).files["train"].endswith("train_others.json")


RUN = """\
[model]
use_description = True
concatenate_description = True
knowledge_usage = concatenate
[dataset]
upsample_temp = 2
[arg_paths]
dart = TASKS/dart.cfg
[special_tokens]
less = ' <'
"""
DART = "[model]\ndescription = task: d\n[seq2seq]\nconstructor = seq2seq_construction.dart\n"


def test_configuration(tmp_path):
    (tmp_path / "TASKS").mkdir()
    (tmp_path / "runs").mkdir()
    (tmp_path / "TASKS" / "dart.cfg").write_text(DART)
    file = tmp_path / "runs" / "all.cfg"
    file.write_text(RUN)
    run = config.load_run(file)
    assert run.tasks == {"dart": TaskConfig(name="dart", kind="dart", description="task: d")}
    assert (run.describe, run.temperature, run.added_tokens) == (True, 2.0, (" <",))
    for old, new, reason in (
        ("upsample_temp = 2", "upsample_temp = 0", "upsample_temp must be positive"),
        (
            "upsample_temp = 2",
            "upsample_temp = x",
            "all.cfg: .dataset. upsample_temp must be a num",
        ),
        ("= concatenate", "= mixed", "knowledge_usage must be 'concatenate' or 'separate'"),
        ("use_description = True", "use_description = 1", "use_description must be True or False"),
        ("TASKS/dart.cfg", "TASKS/no.cfg", "no.cfg does not exist"),
        ("[dataset]", "[dataset", "all.cfg: not a configuration file .*line"),
        ("[arg_paths]", "[paths]", "must list the tasks"),
    ):
        file.write_text(RUN.replace(old, new))
        with pytest.raises(ValueError, match=reason):
            config.load_run(file)


def test_slots_to_separate_are_those_of_multiwoz(tmp_path):
    file = tmp_path / "task.cfg"
    file.write_text(DART + "mode = separate\n")
    with pytest.raises(ValueError, match=r"mode must be 'sequential' \(dart has no slots"):
        config.load_task(file)
    file.write_text(file.read_text().replace("construction.dart", "construction.multiwoz"))
    assert config.load_task(file).separate_slots


def test_all_public_configurations_are_read(shared):
    folder = shared / "data" / "unifiedskg" / "configure"
    runs = [config.load_run(path) for path in sorted(folder.glob("Salesforce/*.cfg"))]
    tasks = [config.load_task(path) for path in sorted(folder.glob("META_TUNING/*.cfg"))]
    assert (len(runs), len(tasks)) == (142, 35)
    assert all(run.added_tokens == prompt.ADDED_TOKENS for run in runs)
    assert Counter(run.temperature for run in runs) == {1.0: 98, 2.0: 14, 5.0: 30}
    assert max(len(run.tasks) for run in runs) == 21


def test_goldens(shared):
    folder = shared / "data" / "unifiedskg"
    records: dict[tuple[str, str], list[Record]] = {}
    for task in TASKS.values():
        files = skg_files.find(folder, task)
        for record in files.read("validation") if files.files else ():
            key = (task.kind, record.id.partition("#")[0])
            records.setdefault(key, []).append(record)
    goldens = [json.loads(x) for x in (folder / "golden_seq2seq.jsonl").read_text().splitlines()]
    assert len(goldens) >= 36
    for golden in goldens:
        kind = golden["task"].replace("_no_cell_value", "")
        shown = [(render(r, 0), r) for r in records[kind, str(golden["id"])]]
        rendered, record = next(pair for pair in shown if pair[0].inputs == golden["seq_in"])
        label = {1: "entailed", 0: "refuted"}.get(golden.get("label"), rendered.targets)
        assert rendered.targets == golden.get("seq_out", label)
        assert list(record.targets) == golden.get("references", list(record.targets))


def test_the_same_in_every_process(tmp_path):
    folder = write_folder(tmp_path / "data")
    rows = [[str(number), "x"] for number in range(30)]
    table = {"t1": {"header": ["n", "x"], "rows": rows}}
    (folder / "wikitq_tables.json").write_text(json.dumps(table))
    code = """
import sys
from ul2tune.data.vocab import ByteVocabulary
from ul2tune.instructions.skg import files
from ul2tune.instructions.skg.config import TaskConfig
from ul2tune.instructions.skg.render import render
task = TaskConfig(name="w", kind="wikitq", table_tokens=300, expansion=3)
for record in files.find(sys.argv[1], task).read("train"):
    print(render(record, 3, tokenizer=ByteVocabulary(), task=task))
"""
    outputs = {
        subprocess.run(
            [sys.executable, "-c", code, str(folder)],
            env={"PYTHONHASHSEED": seed, "PATH": ""},
            capture_output=True,
            text=True,
            check=True,
            cwd=Path(__file__).parents[3],
        ).stdout
        for seed in ("1", "2")
    }
    assert len(outputs) == 1
    # Nine examples of one table, each with other rows deleted.
    assert len(set(outputs.pop().splitlines())) == 9
