"""The files behind tasks of every kind."""

from __future__ import annotations

import seqio

from ul2tune.data.documents import FileCorpus
from ul2tune.data.stdlib_corpus import StdlibCorpus
from ul2tune.data.vocab import ByteVocabulary
from ul2tune.data.vocab_training import VocabularyConfig, trained_vocabulary
from ul2tune.instructions.suites.gsm8k import Gsm8k
from ul2tune.prepare import inputs
from ul2tune.prepare.seqio_vocab import SeqioVocabulary
from ul2tune.prepare.sources import DocumentSource
from ul2tune.prepare.suites_tasks import register_gsm8k
from ul2tune.prepare.tasks import register_corpus_task, register_text_task, seqio_vocabulary

VOCABULARY = ByteVocabulary()


def test_text(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    task = register_text_task(name, ["*.txt", "gs://bucket/*.txt"], vocabulary=VOCABULARY)
    assert list(inputs.paths(task)) == [f"{tmp_path}/*.txt", "gs://bucket/*.txt"]


def test_a_collection(name, tmp_path):
    register_gsm8k(tmp_path, name=name, vocabulary=VOCABULARY)
    assert set(inputs.paths(seqio.TaskRegistry.get(name))) == {str(tmp_path)}
    assert Gsm8k(folder=str(tmp_path)) == seqio.TaskRegistry.get(name).source.corpus


def test_seqio_sources(name, tmp_path):
    task = seqio.Task(
        name,
        source=seqio.TextLineDataSource({"train": f"{tmp_path}/x.tsv"}),
        preprocessors=[],
        output_features={"targets": seqio.Feature(SeqioVocabulary(VOCABULARY))},
    )
    assert list(inputs.paths(task)) == [f"{tmp_path}/x.tsv"]


def test_a_vocabularys_file(name):
    vocabulary = trained_vocabulary(StdlibCorpus())
    task = register_corpus_task(name, StdlibCorpus(), vocabulary=vocabulary)
    assert set(inputs.paths(task)) == {vocabulary.file}


def test_the_text_of_a_trained_vocabulary(name, words, tmp_path, monkeypatch):
    monkeypatch.setenv("UL2TUNE_CACHE_DIR", str(tmp_path / "cache"))
    own = seqio_vocabulary(VocabularyConfig(pieces=300), FileCorpus(files=words, format="jsonl"))
    task = register_corpus_task(name, StdlibCorpus(), vocabulary=own)
    assert set(inputs.paths(task)) == {own.vocabulary.to_json()["file"], words}


def test_a_corpus_inside_of_a_source(tmp_path):
    source = DocumentSource(FileCorpus(files=str(tmp_path / "x")))  # type: ignore[arg-type]
    assert list(inputs._named(source, "", 8)) == [str(tmp_path / "x")]
