"""Flan through SeqIO: tasks over files, nested mixtures, hold-outs."""

from __future__ import annotations

import importlib
import json
import sys

import pytest
import seqio

from tests.instructions import tiny_flan
from tests.prepare.reading import effective_rates
from ul2tune.data import vocab
from ul2tune.prepare.flan_tasks import Flan2022Options, register_flan2021, register_flan2022
from ul2tune.prepare.identity import identity
from ul2tune.prepare.record_tasks import RecordSource

pytestmark = pytest.mark.tensorflow
VOCABULARY = vocab.ByteVocabulary()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("flan")
    return tiny_flan.write_rows(tiny_flan.write_tables(path))


@pytest.fixture(scope="module")
def flan2022(folder):
    options = Flan2022Options(vocabulary=VOCABULARY)
    return register_flan2022(folder, name="tiny2022", options=options)


@pytest.fixture(scope="module")
def flan2021(folder):
    return register_flan2021(folder, name="tiny2021", vocabulary=VOCABULARY)


def elements(task: str, split: str = "train") -> list[dict]:
    source = seqio.TaskRegistry.get(task).source
    assert isinstance(source, RecordSource)
    return list(source.read(split))


def test_sub_mixtures_are_mixtures(flan2022):
    names = set(seqio.MixtureRegistry.names())
    assert {"tiny2022", "tiny2022.cot", "tiny2022.flan2021.zs_noopt"} <= names
    assert "tiny2022.dialog" not in names  # there are no dialogues
    tasks = {task.name for task in seqio.MixtureRegistry.get(flan2022).tasks}
    assert tasks == {
        *(
            f"tiny2022_rte_{f}"
            for f in ("zs_opt", "zs_noopt", "fs_opt_mix", "fs_opt_x", "fs_noopt_x")
        ),
        *(
            f"tiny2022_t0_toy_prompt_{f}"
            for f in ("zs_opt", "zs_noopt", "fs_opt_mix", "fs_opt_x", "fs_noopt_x")
        ),
        *(f"tiny2022_task001_spell_{f}" for f in ("zs_opt", "fs_opt_mix", "fs_opt_x")),
        *(f"tiny2022_cot_gsm8k_{f}" for f in ("zs_opt", "fs_opt_mix", "fs_opt_x")),
        *(f"tiny2022_cot_input_inversion_gsm8k_{f}" for f in ("zs_opt", "fs_opt_mix", "fs_opt_x")),
    }


def test_rates_of_the_registered_mixture(flan2022):
    counts = dict.fromkeys((t.name for t in seqio.MixtureRegistry.get(flan2022).tasks), 6)
    found = effective_rates(flan2022, counts)
    present = 0.97  # all but the dialogues
    assert found["tiny2022_rte_zs_opt"] == pytest.approx(0.1 / present)
    assert found["tiny2022_rte_fs_opt_x"] == pytest.approx(0.05 / present)
    assert found["tiny2022_cot_gsm8k_zs_opt"] == pytest.approx(0.025 / 1.3 / present)
    assert found["tiny2022_task001_spell_fs_opt_x"] == pytest.approx(0.05 / present)


def test_prompts_of_every_kind(flan2022):
    (first, *_) = elements("tiny2022_cot_gsm8k_zs_opt")
    assert first["inputs"] == "0 plus one?\nHow much?\nThink."
    assert first["targets"] == "one more than 0. So the answer is 1."
    styled = [e for e in elements("tiny2022_rte_zs_opt") if "Follows" in e["inputs"]]
    assert all("Pick:\n(A) yes\n(B) no" in e["inputs"] for e in styled)
    assert {e["targets"] for e in styled} == {"(A)", "(B)"}
    assert not any("yes" in e["inputs"] for e in elements("tiny2022_rte_zs_noopt"))
    assert elements("tiny2022_t0_toy_prompt_zs_opt")[0]["inputs"] == "Say 0"
    for element in elements("tiny2022_rte_fs_opt_mix", "validation"):
        assert 0 < len(element["demo_ids"]) <= 5
        assert element["inputs"].count("Q: ") == 1 + len(element["demo_ids"])


def test_a_task_gives_tokens(flan2022):
    task = seqio.TaskRegistry.get("tiny2022_cot_gsm8k_zs_opt")
    lengths = {"inputs": 64, "targets": 64}
    example = next(iter(task.get_dataset(lengths, "train", shuffle=False).as_numpy_iterator()))
    assert VOCABULARY.decode(example["inputs"][:-1]) == "0 plus one?\nHow much?\nThink."
    assert example["targets"][-1] == VOCABULARY.info.eos_id


def test_splits_and_hold_outs_of_flan_2021(flan2021):
    task = seqio.TaskRegistry.get("tiny2021_rte")
    assert set(task.splits) == {"train", "validation", "test"}
    counts = [len(elements("tiny2021_rte", split)) for split in ("train", "validation", "test")]
    assert counts == [12, 200, 4]
    names = set(seqio.MixtureRegistry.names())
    assert {"tiny2021_inter_math_train", "tiny2021_inter_math_eval"} <= names
    held = seqio.MixtureRegistry.get("tiny2021_inter_entailment_eval").tasks
    assert [task.name for task in held] == ["tiny2021_rte"]
    rates = effective_rates(flan2021, {"tiny2021_rte": 9000, "tiny2021_sums": 1000})
    assert rates == pytest.approx({"tiny2021_rte": 0.75, "tiny2021_sums": 0.25})


def test_few_shot_flan_2021_with_the_authors_marks(folder):
    register_flan2021(folder, name="tiny_marked", shots=2, marked=True, vocabulary=VOCABULARY)
    (first, *_) = elements("tiny_marked_sums")
    shots = [int(name.removeprefix("train-")) for name in first["demo_ids"]]
    shown = "".join(f"0 {i} + {i} = ? X 1 {2 * i} X " for i in shots)
    assert first["inputs"] == f"{shown}0 0 + 0 = ? X 1 FLAN"
    assert 0 not in shots


def test_the_authors_do_not_count_separators_towards_the_length_of_flan_2021(tmp_path):
    folder = tiny_flan.write_rows(tiny_flan.write_tables(tmp_path))
    rows = [json.dumps({"sum": f"{i:062} + 0", "answer": f"{i}"}) for i in range(60)]
    (folder / "flan2021/sums/train.jsonl").write_text("\n".join(rows))
    longest = []
    for compat in (False, True):
        task = register_flan2021(
            folder, name=f"long_{compat}", shots=16, compat=compat, vocabulary=VOCABULARY
        )
        prompts = elements(f"{task}_sums")
        # Two new lines after every exemplar; the space after the query is taken away.
        longest.append(max(len(e["inputs"]) + 1 - 2 * len(e["demo_ids"]) for e in prompts))
        assert {len(e["demo_ids"]) for e in prompts} <= {11, 12}
    assert longest[0] <= 960 - 2 * 11 < longest[1] <= 960


def test_fingerprints_do_not_depend_on_where_the_files_are(folder, tmp_path):
    other = tiny_flan.write_rows(tiny_flan.write_tables(tmp_path))
    options = Flan2022Options(vocabulary=VOCABULARY)
    for place, name in ((folder, "here"), (other, "there")):
        register_flan2022(place, name=name, options=options)
    for family in ("rte_fs_opt_mix", "cot_gsm8k_zs_opt", "task001_spell_fs_opt_x"):
        sources = [seqio.TaskRegistry.get(f"{n}_{family}").source for n in ("here", "there")]
        assert identity(sources[0]) == identity(sources[1])


def test_the_note_says_what_is_missing(folder, capsys):
    options = Flan2022Options(vocabulary=VOCABULARY, compat=True, own_counts=True)
    register_flan2022(folder, name="noted", options=options)
    note = capsys.readouterr().err
    assert "flan2021 1/1, t0 1/1, niv2 1/1, cot 1/1, cot_ii 1/1, dialog 0/1, dialog_ii 0/1" in note


def test_missing_rows_and_tables_are_named(tmp_path):
    with pytest.raises(ValueError, match=r"v2_zero_shot_patterns\.json does not exist"):
        register_flan2022(tmp_path, name="empty")
    tiny_flan.write_tables(tmp_path)
    with pytest.raises(ValueError, match="no task of Flan 2022 is there"):
        register_flan2022(tmp_path, name="empty")
    with pytest.raises(ValueError, match=r"such as rte/train\.jsonl"):
        register_flan2021(tmp_path, name="empty")


def test_the_module_needs_its_variable(monkeypatch, folder):
    sys.modules.pop("tasks.flan", None)
    monkeypatch.delenv("UL2TUNE_FLAN", raising=False)
    with pytest.raises(ValueError, match="UL2TUNE_FLAN"):
        importlib.import_module("tasks.flan")
    monkeypatch.setenv("UL2TUNE_FLAN", str(folder))
    monkeypatch.setenv("UL2TUNE_FLAN_COMPAT", "yes")
    with pytest.raises(ValueError, match="use 0 or 1"):
        importlib.import_module("tasks.flan")
    monkeypatch.setenv("UL2TUNE_FLAN_COMPAT", "0")
    importlib.import_module("tasks.flan")
    assert {"flan2022", "flan2021"} <= set(seqio.MixtureRegistry.names())
