"""UnifiedSKG through SeqIO and `prepare` to an evaluation's examples."""

from __future__ import annotations

import importlib
import json
import sys
from typing import Any

import pytest
import seqio

from tests.instructions.skg.test_files import write_folder
from ul2tune.data import rates, vocab
from ul2tune.evaluation import examples
from ul2tune.metrics import registry
from ul2tune.metrics.references import context_of
from ul2tune.prepare.rates import mixture_share
from ul2tune.prepare.run import prepare
from ul2tune.prepare.skg_tasks import DEFAULT_RUN, register_unifiedskg

pytestmark = pytest.mark.tensorflow
VOCABULARY = vocab.ByteVocabulary()


def test_a_folder_becomes_tasks_and_mixtures(tmp_path, name, capsys):
    folder = write_folder(tmp_path / "data")
    tasks = register_unifiedskg(folder, name=name, vocabulary=VOCABULARY)
    assert tasks == tuple(f"{name}_{task}" for task in DEFAULT_RUN.tasks)
    assert "spider/database is absent" in capsys.readouterr().err
    # sqrt(3) to sqrt(12): UnifiedSKG's temperature 2.
    share = rates.flat(mixture_share(name, {f"{name}_wikitq": 3, f"{name}_dart": 12}))
    assert share == {f"{name}_wikitq": pytest.approx(1 / 3), f"{name}_dart": pytest.approx(2 / 3)}
    task: Any = seqio.TaskRegistry.get(f"{name}_spider")
    element = next(
        task.get_dataset({"inputs": 512, "targets": 64}, "validation").as_numpy_iterator()
    )
    assert VOCABULARY.decode(element["inputs"]).startswith(
        "task: spider ; How many? ; structured knowledge: | shop_1 | item : item_id"
    )
    target = task.postprocess_fn("", example=element, is_target=True)
    (metric,) = task.metric_fns
    assert metric([target], ["select count(*) from item"])["spider_exact_match_tables"] == 100.0


def test_prepared_examples_are_judged_with_their_context(tmp_path, name, monkeypatch):
    monkeypatch.setenv("UL2TUNE_UNIFIEDSKG", str(write_folder(tmp_path / "data")))
    monkeypatch.delitem(sys.modules, "tasks.unifiedskg", raising=False)
    register_unifiedskg(tmp_path / "data", name=name, vocabulary=VOCABULARY)
    data = str(tmp_path / "prepared")
    prepare(f"{name}_eval", (), data, splits=("validation",), num_workers=0)
    found = examples.load(f"{name}_eval", data, split="validation", inputs_length=512)
    by_task = {example.task.removeprefix(f"{name}_"): example for example in found.examples}
    assert len(found.examples) == 1 + 2 + 6 + 1 + 2
    scores = {
        "wikitq": ("all_ex", "paris, athens"),
        "tab_fact": ("tabfact", "refuted"),
        "spider": ("spider_exact_match_tables", "select count(*) from item"),
        "multiwoz": ("multiwoz_joint", "hotel book people 2, hotel area none"),
    }
    for task, (metric, right) in scores.items():
        assert metric in by_task[task].metric_names
        assert registry.SCORES[metric](right, by_task[task].references) == 1.0
        assert registry.SCORES[metric]("other", by_task[task].references) == 0.0
    assert by_task["dart"].references == ("One.", "Two.")
    assert context_of(by_task["spider"].references, "")["query"] == "SELECT count(*) FROM Item"
    (bleu,) = found.metric_functions[f"{name}_dart"]
    assert registry.resolve(bleu).__name__ == "corpus_bleu"
    assert by_task["tab_fact"].answer_choices == ("entailed", "refuted")


def test_a_configuration_file_and_carving(tmp_path, name, capsys):
    folder = write_folder(tmp_path / "data")
    (folder / "wikitq_train.jsonl").unlink()
    (folder / "dart_train.jsonl").unlink()
    row = {"tripleset": [["a", "b", "c"]], "annotations": [{"text": "t"}]}
    (folder / "dart_dev.jsonl").write_text((json.dumps(row) + "\n") * 40)
    (tmp_path / "cfg" / "tasks").mkdir(parents=True)
    (tmp_path / "cfg" / "runs").mkdir()
    for kind in ("dart", "totto"):
        text = f"[seq2seq]\nconstructor = seq2seq_construction.{kind}\n"
        (tmp_path / "cfg" / "tasks" / f"{kind}.cfg").write_text(text)
    run = tmp_path / "cfg" / "runs" / "run.cfg"
    run.write_text("[arg_paths]\nd = tasks/dart.cfg\nt = tasks/totto.cfg\n")
    assert register_unifiedskg(folder, name=name, config=run, vocabulary=VOCABULARY) == (
        f"{name}_d",
    )
    notes = capsys.readouterr().err
    assert "for t; left out" in notes
    assert f"no mixture {name!r}; `carve` makes some (UL2TUNE_UNIFIEDSKG_CARVE=" in notes
    register_unifiedskg(folder, name=f"{name}c", config=run, vocabulary=VOCABULARY, carve=0.5)
    task: Any = seqio.TaskRegistry.get(f"{name}c_d")
    counts = [len(list(task.source.read(split))) for split in ("train", "validation")]
    assert sum(counts) == 40
    assert min(counts) > 5
    with pytest.raises(ValueError, match="has files of none of the tasks d, t"):
        register_unifiedskg(tmp_path / "cfg", name=f"{name}x", config=run, vocabulary=VOCABULARY)


def test_the_module_says_what_it_needs(monkeypatch):
    monkeypatch.delenv("UL2TUNE_UNIFIEDSKG", raising=False)
    monkeypatch.delitem(sys.modules, "tasks.unifiedskg", raising=False)
    with pytest.raises(ValueError, match="UL2TUNE_UNIFIEDSKG"):
        importlib.import_module("tasks.unifiedskg")
