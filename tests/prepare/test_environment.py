"""What shipped task modules take from the environment."""

from __future__ import annotations

import importlib
import sys

import pytest
import seqio

from ul2tune.data.documents import FileCorpus
from ul2tune.data.stamp import TEXT, VOCABULARY
from ul2tune.prepare import environment
from ul2tune.prepare.seqio_vocab import SeqioVocabulary, from_seqio
from ul2tune.prepare.tasks import seqio_vocabulary


def test_the_vocabulary_that_the_variable_names(monkeypatch):
    monkeypatch.delenv(VOCABULARY, raising=False)
    assert environment.vocabulary() == "stdlib"
    monkeypatch.setenv(VOCABULARY, "bytes")
    assert environment.vocabulary() == "bytes"


def test_a_collection_whose_folder_is_not_there_names_the_variable(monkeypatch, tmp_path):
    monkeypatch.delenv("UL2TUNE_MMLU", raising=False)
    with pytest.raises(ValueError, match=r"set the environment variable UL2TUNE_MMLU to .* dev/"):
        environment.folder("UL2TUNE_MMLU", "dev/")
    monkeypatch.setenv("UL2TUNE_MMLU", str(tmp_path / "mlmu"))
    with pytest.raises(ValueError, match=r"UL2TUNE_MMLU is '.*mlmu', which is no folder .* dev/"):
        environment.folder("UL2TUNE_MMLU", "dev/")
    (tmp_path / "mlmu").mkdir()
    assert environment.folder("UL2TUNE_MMLU", "dev/") == str(tmp_path / "mlmu")


def test_the_trained_vocabulary_needs_text(monkeypatch):
    monkeypatch.setenv(VOCABULARY, "trained")
    monkeypatch.delenv(TEXT, raising=False)
    with pytest.raises(ValueError, match=r"UL2TUNE_VOCABULARY is 'trained', .* set UL2TUNE_TEXT"):
        environment.vocabulary()


def test_the_mixture_of_a_place(task):
    assert environment.registered("UL2TUNE_X", f"string:{task.name}") == task.name
    with pytest.raises(ValueError, match=rf"UL2TUNE_X names 'string:x.* mean '{task.name}'"):
        environment.registered("UL2TUNE_X", f"string:x{task.name}")
    with pytest.raises(ValueError, match=r"UL2TUNE_X names 'tasks\.nobody', which Python does not"):
        environment.registered("UL2TUNE_X", "tasks.nobody:mine")
    for place in ("tasks.superni", "tasks.superni:", ":superni", ""):
        with pytest.raises(ValueError, match=f"UL2TUNE_X names '{place}': give MODULE:MIXTURE"):
            environment.registered("UL2TUNE_X", place)


def test_a_collection_of_opt_iml_has_a_benchmark(monkeypatch):
    monkeypatch.setenv("UL2TUNE_OPT_IML", "tasks.superni:superni")
    monkeypatch.delitem(sys.modules, "tasks.opt_iml", raising=False)
    with pytest.raises(
        ValueError, match=r"has 'tasks\.superni:superni' without a benchmark: give B"
    ):
        importlib.import_module("tasks.opt_iml")


def test_a_benchmark_of_opt_iml_is_named_once(monkeypatch):
    """The second would replace the first, whose collection were then left out in silence."""
    monkeypatch.setenv("UL2TUNE_OPT_IML", "flan=a:one,niv2=b:two,flan=c:three")
    monkeypatch.delitem(sys.modules, "tasks.opt_iml", raising=False)
    with pytest.raises(ValueError, match=r"'flan' twice: .* as in flan=a:one\+c:three\."):
        importlib.import_module("tasks.opt_iml")


def test_a_collection_in_the_vocabulary_trained_on_your_text(monkeypatch, tmp_path):
    words = "".join(f"{chr(97 + i // 26)}{chr(97 + i % 26)}ord " for i in range(300))
    lines = [f'{{"text": "{words[i:]} {i}"}}\n' for i in range(200)]
    (tmp_path / "text.jsonl").write_text("".join(lines))
    (tmp_path / "chats").mkdir()
    turns = '[{"role": "user", "content": "aa"}, {"role": "assistant", "content": "b"}]'
    (tmp_path / "chats" / "listed.jsonl").write_text(f'{{"messages": {turns}}}\n')
    (tmp_path / "my.style").write_text('{"user": ["U:", ";"], "assistant": ["A:", ";"]}')
    monkeypatch.setenv("UL2TUNE_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("UL2TUNE_CHAT", str(tmp_path / "chats"))
    monkeypatch.setenv("UL2TUNE_CHAT_TEMPLATE", str(tmp_path / "my.style"))
    monkeypatch.setenv(VOCABULARY, "trained")
    monkeypatch.setenv(TEXT, str(tmp_path / "text.jsonl"))
    monkeypatch.delitem(sys.modules, "tasks.chat", raising=False)
    importlib.import_module("tasks.chat")
    found = seqio.get_mixture_or_task("chat").output_features["targets"].vocabulary
    assert isinstance(found, SeqioVocabulary)
    corpus = FileCorpus(files=str(tmp_path / "text.jsonl"), format="jsonl")
    wanted = seqio_vocabulary("trained", corpus).vocabulary
    assert from_seqio(found).fingerprint == wanted.fingerprint
    sys.modules.pop("tasks.chat")
