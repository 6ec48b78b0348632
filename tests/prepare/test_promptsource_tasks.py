"""PromptSource's prompts through SeqIO and `prepare` to the examples an evaluation reads."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path

import pytest
import seqio

from ul2tune.data import vocab
from ul2tune.evaluation import examples
from ul2tune.prepare.promptsource_tasks import register_promptsource, register_t0
from ul2tune.prepare.run import prepare

pytestmark = pytest.mark.tensorflow
VOCABULARY = vocab.ByteVocabulary()
TEMPLATES = Path(__file__).resolve().parents[1] / "instructions" / "promptsource"
TABLE = (
    "HF_name,subset,task_by_convention,do_train,do_eval,train_size\n"
    "harbour,ferries,timing,BASE,,30\nweather,,sky,,BASE,\n"
)


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    """Six ferries to train on, two to validate, three weather reports to evaluate."""
    folder = tmp_path / "rows"
    for place, split, count in (
        ("harbour/ferries", "train", 6),
        ("harbour/ferries", "validation", 2),
        ("weather", "validation", 3),
    ):
        (folder / place).mkdir(parents=True, exist_ok=True)
        lines = [
            json.dumps(
                {
                    "log": f"Left at {n}.",
                    "report": f"Day {n}.",
                    "label": n % 2,
                    "piers": ["A", "B"],
                    "from-pier": 0,
                }
            )
            for n in range(count)
        ]
        (folder / place / f"{split}.jsonl").write_text("\n".join(lines))
    return folder


@pytest.fixture
def clean_registry():
    before = [set(r.names()) for r in (seqio.TaskRegistry, seqio.MixtureRegistry)]
    yield
    for registry, names in zip((seqio.TaskRegistry, seqio.MixtureRegistry), before):
        for name in set(registry.names()) - names:
            registry.remove(name)


@pytest.mark.usefixtures("clean_registry")
def test_t0_from_files_to_examples(rows: Path, tmp_path: Path):
    table = tmp_path / "datasets.csv"
    table.write_text(TABLE + "missing,,sky,BASE,,10\n")
    mixtures = register_t0(TEMPLATES, rows, table, vocabulary=VOCABULARY)
    assert mixtures[:3] == ("t0_train", "t0+_train", "t0++_train")
    train = seqio.get_mixture_or_task("t0_train")
    assert sorted(task.name for task in train.tasks) == [
        "harbour_ferries_Which_pier",
        "harbour_ferries_invent",
        "harbour_ferries_on_time_",
    ]
    assert {train.get_rate(task) for task in train.tasks} == {30.0}
    prepare("t0_eval_score_eval", [], str(tmp_path / "data"), splits=("validation",), num_workers=1)
    found = examples.load(
        "t0_eval_score_eval", str(tmp_path / "data"), split="validation", inputs_length=64
    )
    assert [e.task for e in found.examples] == ["weather_dry_or_wet"] * 3
    one = found.examples[1]
    assert one.inputs_text == "Day 1. Is it dry or wet?"
    assert (one.references, one.answer_choices) == (("wet",), ("dry", "wet"))
    assert one.choice_ids[0].tolist() == [*VOCABULARY.encode("dry"), 1]
    # As in T0, the input has no end of sequence.
    assert one.inputs_S.tolist() == VOCABULARY.encode("Day 1. Is it dry or wet?")
    assert one.record_task == "weather"
    assert (one.id, one.category) == ("validation-2", "sky")
    prepare("t0_train", [], str(tmp_path / "data"), splits=("train",), num_workers=1)


@pytest.mark.usefixtures("clean_registry")
def test_data_sets_that_have_a_test_split_alone_are_evaluated(rows: Path, tmp_path: Path, capsys):
    (rows / "weather" / "validation.jsonl").rename(rows / "weather" / "test.jsonl")
    table = tmp_path / "datasets.csv"
    table.write_text(TABLE)
    mixtures = register_t0(TEMPLATES, rows, table, vocabulary=VOCABULARY)
    assert "t0_eval_score_eval" in mixtures
    assert "t0_eval_score_eval" not in capsys.readouterr().err
    (task,) = seqio.get_mixture_or_task("t0_eval_score_eval").tasks
    assert (task.name, list(task.splits)) == ("weather_dry_or_wet", ["test"])


@pytest.mark.usefixtures("clean_registry")
def test_all_prompts_there_are_rows_for(rows: Path):
    name = register_promptsource(TEMPLATES, rows, name="all", vocabulary=VOCABULARY)
    mixture = seqio.get_mixture_or_task(name)
    assert len(mixture.tasks) == 4
    task = seqio.get_mixture_or_task("harbour_ferries_invent")
    elements = list(task.source.get_dataset("train").as_numpy_iterator())
    assert [e["targets"] for e in elements] == [b"Left at 1.", b"Left at 3.", b"Left at 5."]
    assert {e["task"] for e in elements} == {b"harbour_ferries"}


def test_wrong_folders_say_so(tmp_path: Path):
    with pytest.raises(ValueError, match="has no rows of any data set that"):
        register_promptsource(TEMPLATES, tmp_path)
    with pytest.raises(ValueError, match=r"no templates\.yaml in it or below"):
        register_promptsource(tmp_path, tmp_path)


@pytest.mark.usefixtures("clean_registry")
def test_the_shipped_module_says_what_it_leaves_out_without_t0s_table(
    rows: Path, monkeypatch, capsys
):
    monkeypatch.setenv("UL2TUNE_PROMPTSOURCE", str(TEMPLATES))
    monkeypatch.setenv("UL2TUNE_PROMPTSOURCE_ROWS", str(rows))
    monkeypatch.setenv("UL2TUNE_VOCABULARY", "bytes")
    monkeypatch.delenv("UL2TUNE_T0", raising=False)
    monkeypatch.delitem(sys.modules, "tasks.promptsource", raising=False)
    importlib.import_module("tasks.promptsource")
    assert "UL2TUNE_T0" in capsys.readouterr().err
    assert "promptsource" in seqio.MixtureRegistry.names()
    assert "t0_train" not in seqio.MixtureRegistry.names()
    sys.modules.pop("tasks.promptsource")
