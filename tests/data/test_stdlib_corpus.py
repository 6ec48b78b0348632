"""The embedded corpus: real, in a fixed order, read without importing anything."""

import doctest
import hashlib
import json.decoder
import subprocess
import sys

from ul2tune.data import stdlib_corpus
from ul2tune.data.documents import Rejections
from ul2tune.data.stdlib_corpus import StdlibCorpus


def test_doctests():
    assert doctest.testmod(stdlib_corpus).failed == 0


def test_docstrings_are_those_that_python_shows():
    entries = [d for d in stdlib_corpus.iter_docstrings() if d.module == "json.decoder"]
    by_name = {entry.qualname: entry for entry in entries}
    decode = by_name["JSONDecoder.decode"]
    assert decode.kind == "method"
    assert decode.signature == "(self, s, _w=WHITESPACE.match)"
    assert "Return the Python representation" in (json.decoder.JSONDecoder.decode.__doc__ or "")
    assert decode.docstring.startswith("Return the Python representation")
    assert by_name["JSONDecodeError"].signature == "(ValueError)"
    assert by_name[""].kind == "module"
    assert by_name["py_scanstring"].kind == "function"


def test_it_is_some_megabytes_of_distinct_documents():
    documents = list(stdlib_corpus.documents())
    assert len(documents) > 1000
    assert sum(len(document.text) for document in documents) > 1_500_000
    assert len({document.text for document in documents}) == len(documents)
    assert all(document.text.strip() and "\r" not in document.text for document in documents)
    names = [document.name for document in documents]
    assert names[0].startswith("topic ")
    assert "json.decoder.JSONDecoder" in names
    assert not any(name.startswith(("test.", "site-packages")) for name in names)


def test_shards_partition_the_corpus():
    whole = [d.name for d in StdlibCorpus().read(Rejections())]
    log = Rejections()
    shards = [[d.name for d in StdlibCorpus().read(log, shard=i, num_shards=3)] for i in range(3)]
    assert sorted(shards[0] + shards[1] + shards[2]) == sorted(whole)
    assert log.num_records == len(whole)
    assert log.num_bytes == StdlibCorpus().num_bytes()


def test_another_process_finds_the_same_corpus_and_imports_none_of_it():
    code = (
        "import sys, hashlib\n"
        "from ul2tune.data import stdlib_corpus as s\n"
        "text = ''.join(d.name + d.text for d in s.documents())\n"
        "print(hashlib.sha256(text.encode()).hexdigest(), s.fingerprint())\n"
        "print({'turtle', 'tkinter', 'idlelib', 'jax', 'tensorflow'} & set(sys.modules))"
    )
    env = {"PYTHONHASHSEED": "7", "PYTHONPATH": ":".join(sys.path)}
    run = [sys.executable, "-c", code]
    there = subprocess.run(run, capture_output=True, text=True, check=True, env=env).stdout
    here = "".join(document.name + document.text for document in stdlib_corpus.documents())
    digest = hashlib.sha256(here.encode()).hexdigest()
    assert there == f"{digest} {stdlib_corpus.fingerprint()}\nset()\n"
