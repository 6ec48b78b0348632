"""What ships registered, what four lines of a user register, and the audit of both."""

import gzip
import importlib
import json
import sys
from pathlib import Path

import pytest
import seqio

from tests.prepare import reading
from ul2tune.data.stdlib_corpus import StdlibCorpus
from ul2tune.prepare.audit import audit
from ul2tune.prepare.plan import make_plan
from ul2tune.prepare.run import prepare
from ul2tune.prepare.tasks import register_corpus_task, seqio_vocabulary
from ul2tune.status_line import StatusLine

OBJECTIVES = ("ul2", "ul2r", "t5gemma2", "span_corruption", "prefix_lm", "causal_lm")


@pytest.fixture
def shipped(monkeypatch):
    for module in ("tasks.ul2", "tasks.text"):
        monkeypatch.delitem(sys.modules, module, raising=False)
        importlib.import_module(module)


def test_shipped_tasks(shipped):
    names = [f"{objective}_stdlib" for objective in OBJECTIVES]
    assert set(names) <= set(seqio.TaskRegistry.names())
    for name in names:
        plan = make_plan(seqio.TaskRegistry.get(name), "train")
        assert plan.vocabulary.size == 4096
        assert plan.features == ("targets",)
        assert plan.pipeline.online["kind"] == "ul2"
    plain = make_plan(seqio.TaskRegistry.get("stdlib_text"), "train")
    assert plain.pipeline.online is None
    assert plain.add_eos == {"targets": True}
    row = next(
        seqio.get_mixture_or_task("ul2_stdlib")
        .get_dataset({"inputs": 512, "targets": 512}, split="train", shuffle=True, seed=0)
        .as_numpy_iterator()
    )
    assert row["inputs"].size <= 512
    assert row["inputs"][-1] == 1


def test_embedded_vocabulary_keeps_the_embedded_corpus(shipped):
    report = audit("ul2_stdlib", [], max_examples=300)["ul2_stdlib"]
    assert report.num_texts == 300
    assert (report.num_lossy, report.num_unknown) == (0, 0)


USER_MODULE = """
from ul2tune.prepare.tasks import register_text_task

register_text_task("notes", {files!r}, format="jsonl", vocabulary="bytes", objective="ul2r")
"""


def test_a_users_four_lines(tmp_path, monkeypatch):
    lines = [json.dumps({"text": f"note {i}"}) for i in range(30)]
    (tmp_path / "notes.jsonl.gz").write_bytes(gzip.compress("\n".join(lines).encode()))
    files = str(tmp_path / "*.jsonl.gz")
    (tmp_path / "my_notes.py").write_text(USER_MODULE.format(files=files))
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "my_notes", raising=False)
    prepare("notes", ["my_notes"], str(tmp_path / "data"), num_workers=1)
    found = [
        text
        for split in ("train", "validation")
        for text in reading.texts(tmp_path / "data", "notes", split)
    ]
    assert sorted(found) == sorted(f"note {i}" for i in range(30))
    assert audit("notes", ["my_notes"])["notes"].num_lossy == 0


def test_audit_of_a_foreign_source_reads_what_seqio_keeps(name, tmp_path):
    (tmp_path / "x.txt").write_text("one\ntwo\n")

    def columns(dataset):
        return dataset.map(lambda line: {"targets": line})

    seqio.TaskRegistry.add(
        name,
        source=seqio.TextLineDataSource({"train": str(tmp_path / "x.txt")}),
        preprocessors=[columns, seqio.preprocessors.tokenize],
        output_features={"targets": seqio.Feature(seqio.ByteVocabulary())},
    )
    report = audit(name, [])[name]
    assert (report.num_texts, report.num_tokens) == (2, 6)
    assert audit(name, [], split="validation") == {}
    assert audit(name, [], tasks=["another"]) == {}


def test_an_audit_that_takes_long_says_how_far_it_is(name, tmp_path, monkeypatch, capsys):
    for number in range(3):
        register_corpus_task(f"{name}_{number}", StdlibCorpus(), vocabulary="bytes")
    seqio.MixtureRegistry.add(name, [f"{name}_{number}" for number in range(3)], default_rate=1)
    monkeypatch.setattr(StatusLine, "is_due", lambda _: True)
    assert len(audit(name, [], max_examples=1)) == 3
    told = [f"audit of {name}: {done} of 3 tasks are read" for done in range(3)]
    assert capsys.readouterr().err.splitlines() == told


def test_vocabularies_by_description(tmp_path):
    assert seqio_vocabulary("bytes").vocab_size == 384
    with pytest.raises(ValueError, match="needs a corpus"):
        seqio_vocabulary("trained")
    with pytest.raises(ValueError, match="does not exist"):
        _ = seqio_vocabulary(tmp_path / "x.model").vocab_size


def test_tasks_registered_together_share_a_vocabulary_until_it_is_read(tmp_path):
    path = tmp_path / "a.json"
    path.write_text('{"kind": "bytes", "extra_ids": 7}')
    first, second = seqio_vocabulary(str(path)), seqio_vocabulary(path)
    assert first is second
    assert first.vocabulary.extra_ids == 7
    path.write_text('{"kind": "bytes", "extra_ids": 8}')
    assert seqio_vocabulary(str(path)).vocabulary.extra_ids == 8
    assert seqio_vocabulary(Path("stdlib")) is not seqio_vocabulary("stdlib")  # a file, and ours
