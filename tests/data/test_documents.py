"""Documents out of files, and what is wrong with them."""

import gzip
import hashlib
import json
import os
import random
import time

import fsspec
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from ul2tune.data import documents, files
from ul2tune.data.documents import FileCorpus, Rejections


def read(corpus: FileCorpus, **shard) -> tuple[list[tuple[str, str]], Rejections]:
    log = Rejections()
    return [(d.name, d.text) for d in corpus.read(log, **shard)], log


def test_text_is_one_document_per_file(tmp_path):
    (tmp_path / "b.txt").write_bytes(b"second\r\nfile\n")
    (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbffirst\n\nfile")
    found, log = read(FileCorpus(files=str(tmp_path / "*.txt")))
    assert found == [("a.txt:1", "first\n\nfile"), ("b.txt:1", "second\nfile\n")]
    assert (log.num_records, log.num_bytes, log.counts) == (2, 27, {})


def test_documents_are_blocks_between_blank_lines(tmp_path):
    path = tmp_path / "x.txt"
    path.write_bytes(b"\n \none\ntwo\n\n\t\nthree\r\nfour\r\n\r\nfive")
    found, _ = read(FileCorpus(files=str(path), format="documents"))
    assert found == [("x.txt:3", "one\ntwo"), ("x.txt:7", "three\nfour"), ("x.txt:10", "five")]


def test_jsonl_takes_the_key(tmp_path):
    path = tmp_path / "x.jsonl"
    path.write_text('{"body": "one\\r\\n two"}\n{"text": "no", "body": "t\u2028wo"}\n')
    found, log = read(FileCorpus(files=str(path), format="jsonl", text_key="body"))
    # Inside JSON a line end is data; U+2028 ends no line.
    assert found == [("x.jsonl:1", "one\r\n two"), ("x.jsonl:2", "t\u2028wo")]
    assert not log.counts


@pytest.mark.parametrize("suffix", [".gz", ".zst"])
def test_compressed(tmp_path, suffix):
    data = "".join(json.dumps({"text": f"document {i}"}) + "\n" for i in range(1000)).encode()
    packed = gzip.compress(data) if suffix == ".gz" else zstandard.compress(data)
    path = tmp_path / f"x.jsonl{suffix}"
    path.write_bytes(packed)
    corpus = FileCorpus(files=str(path), format="jsonl")
    found, log = read(corpus)
    assert [text for _, text in found] == [f"document {i}" for i in range(1000)]
    assert log.num_bytes == corpus.num_bytes() == len(packed)
    # Cut off or wrong: an error that names the file, not a shorter corpus.
    path.write_bytes(packed[: len(packed) // 2])
    with pytest.raises(ValueError, match=r"x\.jsonl\.(gz|zst) is damaged"):
        read(corpus)
    # Several archives in one file are one text.
    path.write_bytes(packed + packed)
    assert len(read(corpus)[0]) == 2000
    for junk in (b"no archive at all", b""):
        path.write_bytes(junk)
        with pytest.raises(ValueError, match="is damaged or not what its name says"):
            read(corpus)


@pytest.mark.parametrize("suffix", [".gz", ".zst"])
def test_progress_in_an_archive_follows_the_bytes_read_of_it(tmp_path, suffix):
    texts = [random.Random(i).randbytes(2000).hex() for i in range(2000)]
    data = "".join(json.dumps({"text": text}) + "\n" for text in texts).encode()
    packed = gzip.compress(data) if suffix == ".gz" else zstandard.compress(data)
    (tmp_path / f"x.jsonl{suffix}").write_bytes(packed)
    corpus, log = FileCorpus(files=str(tmp_path / "x*"), format="jsonl"), Rejections()
    seen = [log.num_bytes for _ in corpus.read(log, shard=1, num_shards=2)]
    assert seen == sorted(seen)
    assert seen[len(seen) // 2] == pytest.approx(len(packed) / 4, abs=2**20)
    assert log.num_bytes == pytest.approx(len(packed) / 2, abs=1)


def test_malformed_records_are_counted_and_located(tmp_path):
    lines = [
        b'{"text": "good"}',
        b'{"text": "cut',
        b"[1, 2]",
        b'{"text": 3}',
        b'{"other": "x"}',
        b'{"text": "\xff\xfe"}',
        b'{"text": "\\ud800"}',
        b'{"text": "  \\n"}',
        b"",
        b'"a string"',
        b"[" * 100_000,
        b'{"text": "fine", "n": ' + b"1" * 5000 + b"}",
        b'{"text": "good too"}',
    ]
    (tmp_path / "x.jsonl").write_bytes(b"\n".join(lines) + b"\n")
    found, log = read(FileCorpus(files=str(tmp_path / "x.jsonl"), format="jsonl"))
    assert found == [("x.jsonl:1", "good"), ("x.jsonl:13", "good too")]
    assert log.num_records == 12  # line 9 is blank
    assert log.counts == {"bad JSON": 3, "wrong type": 4, "invalid UTF-8": 2, "empty": 1}
    where = str(tmp_path / "x.jsonl")
    assert log.examples[0].startswith(f"{where}:2: bad JSON (Unterminated string")
    assert log.examples[1] == f"{where}:3: wrong type (list instead of an object)"
    assert log.examples[2] == f"{where}:4: wrong type ('text' is int, not a string)"
    assert (
        log.examples[3] == f"{where}:5: wrong type ('text' is missing; text_key could name 'other')"
    )
    assert log.examples[4].startswith(f"{where}:6: invalid UTF-8")
    assert log.examples[6] == f"{where}:8: empty"
    assert log.examples[9].startswith(f"{where}:12: bad JSON (Exceeds the limit (4300 digits)")


@pytest.mark.parametrize("num_shards", [1, 2, 3])
def test_blank_lines_between_json_lines_are_no_records(tmp_path, num_shards):
    texts = [str(number) for number in range(9)]
    (tmp_path / "x.jsonl").write_text(
        "\n".join(f'{{"text": "{text}"}}\n{" " * int(text)}\r' for text in texts) + "\n\n"
    )
    corpus, log = FileCorpus(files=str(tmp_path / "x.jsonl"), format="jsonl"), Rejections()
    shards = [
        [document.name for document in corpus.read(log, shard=shard, num_shards=num_shards)]
        for shard in range(num_shards)
    ]
    # Shards divide the lines, as those did that older versions prepared.
    lines = [[n for n in range(1, 18, 2) if (n - 1) % num_shards == s] for s in range(num_shards)]
    assert shards == [[f"x.jsonl:{line}" for line in own] for own in lines]
    assert (log.num_records, log.counts.total()) == (9, 0)
    assert log.num_bytes == corpus.num_bytes()


def test_the_line_of_a_bad_byte_in_a_block(tmp_path):
    (tmp_path / "x.txt").write_bytes(b"fine\n\nfirst\nsecond \xff\nthird\n")
    found, log = read(FileCorpus(files=str(tmp_path / "x.txt"), format="documents"))
    assert found == [("x.txt:1", "fine")]
    assert log.examples == [f"{tmp_path}/x.txt:4: invalid UTF-8 (invalid start byte)"]


def test_too_many_rejected_is_an_error_with_the_places():
    log = Rejections(num_records=100)
    log.add("a.jsonl", 7, "bad JSON", "x")
    log.check(0.01, "notes")  # exactly the limit
    log.add("a.jsonl", 9, "empty")
    with pytest.raises(ValueError, match=r"notes: 2 of 100 .*\(2\.00%\)") as caught:
        log.check(0.01, "notes")
    assert "a.jsonl:7: bad JSON (x)" in str(caught.value)
    assert "a.jsonl:9: empty" in str(caught.value)
    assert "--gin.PREPARE_MAX_REJECTED=0.02 " in str(caught.value)


def test_reading_ends_early_where_most_is_malformed(tmp_path):
    path = tmp_path / "x.jsonl"
    path.write_text('{"text": "good"}\n{"txt": "bad"}\n{"txt": "bad"}\n' * 5_000)
    corpus = FileCorpus(files=str(path), format="jsonl")
    with pytest.raises(ValueError, match=r"ended early at .*x\.jsonl:10001: 6667 of 10001 records"):
        list(corpus.read(Rejections(max_fraction=0.01)))
    log = Rejections(max_fraction=0.7)
    assert len(list(corpus.read(log))) == 5_000
    assert log.counts == {"wrong type": 10_000}


@settings(deadline=None, max_examples=50, derandomize=True)
@given(
    sizes=st.lists(st.integers(0, 6), min_size=1, max_size=5),
    num_shards=st.integers(1, 8),
    format=st.sampled_from(["text", "documents", "jsonl"]),
)
def test_shards_partition_records_and_rejections(tmp_path_factory, sizes, num_shards, format):
    folder = tmp_path_factory.mktemp("shards")
    for i, size in enumerate(sizes):
        texts = [f"{i} {k}" if k != 3 else "\x00" for k in range(size)]
        if format == "jsonl":
            content = "".join(json.dumps({"text": t} if t != "\x00" else []) + "\n" for t in texts)
        else:
            content = "\n\n".join(texts)
        (folder / f"{i}.x").write_text(content)
    corpus = FileCorpus(files=str(folder / "*.x"), format=format)
    whole, log = read(corpus)
    parts = [read(corpus, shard=i, num_shards=num_shards) for i in range(num_shards)]
    assert sorted(d for found, _ in parts for d in found) == sorted(whole)
    merged = Rejections()
    for _, part in parts:
        merged.merge(part)
    assert (merged.num_records, merged.num_bytes) == (log.num_records, log.num_bytes)
    assert merged.counts == log.counts
    assert sorted(merged.examples) == sorted(log.examples)


def test_no_shard_reads_more_than_it_must(tmp_path, monkeypatch):
    for i in range(5):
        (tmp_path / f"{i}.txt").write_text("\n\n".join(f"{i} {k}" for k in range(7)))
    opened = []
    open_counted = files.open_counted
    monkeypatch.setattr(files, "open_counted", lambda f: opened.append(f) or open_counted(f))
    corpus = FileCorpus(files=str(tmp_path / "*.txt"), format="documents")
    for num_shards, most in ((1, 5), (3, 5), (5, 5), (6, 6), (12, 12)):
        opened.clear()
        found = [
            d for i in range(num_shards) for d, _ in read(corpus, shard=i, num_shards=num_shards)[0]
        ]
        assert len(found) == len(set(found)) == 35
        assert len(opened) == most


def test_globs(tmp_path, monkeypatch):
    for name in ("b.txt", "a.txt", "deep/er/c.txt", "[odd].txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("x")
    names = [p.removeprefix(f"{tmp_path}/") for p in files.expand(f"{tmp_path}/**/*.txt")]
    assert names == ["[odd].txt", "a.txt", "b.txt", "deep/er/c.txt"]
    assert files.expand([f"{tmp_path}/b.txt", f"{tmp_path}/*.txt"])[0].endswith("b.txt")
    assert files.expand(f"{tmp_path}/[odd].txt") == [f"{tmp_path}/[odd].txt"]
    monkeypatch.setenv("HOME", str(tmp_path))
    assert files.expand("~/a.txt") == [f"{tmp_path}/a.txt"]
    with pytest.raises(ValueError, match=r"No file matches '.*\.csv'"):
        files.expand([f"{tmp_path}/*.txt", f"{tmp_path}/*.csv"])
    with pytest.raises(ValueError, match=rf"No file matches '~/c\.txt' \(which is '{tmp_path}/c"):
        files.expand("~/c.txt")
    with pytest.raises(ValueError, match="Unknown format 'csv'"):
        FileCorpus(files="x", format="csv")  # type: ignore[arg-type]


@pytest.mark.parametrize("pattern", ["~/data", "{home}/data", "{home}/data/", "{home}/d*"])
def test_a_folder_is_no_file(tmp_path, monkeypatch, pattern):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "a.txt").write_text("x")
    pattern = pattern.format(home=tmp_path)
    with pytest.raises(ValueError, match="names a folder, not files: write, for") as caught:
        files.expand(pattern)
    assert str(caught.value).startswith(repr(pattern))
    assert str(caught.value).endswith(f" {str(tmp_path / 'data/*.txt')!r}.")


def test_remote_files_through_fsspec():
    memory = fsspec.filesystem("memory")
    memory.pipe("/corpus/b.jsonl", b'{"text": "b"}\n')
    memory.pipe("/corpus/a.jsonl.gz", gzip.compress(b'{"text": "a"}\n'))
    corpus = FileCorpus(files="memory://corpus/*", format="jsonl")
    found, _ = read(corpus)
    assert found == [("a.jsonl.gz:1", "a"), ("b.jsonl:1", "b")]
    before = corpus.fingerprint()
    memory.pipe("/corpus/b.jsonl", b'{"text": "c"}\n')
    assert corpus.fingerprint() != before


def test_fingerprint_follows_content_not_place(tmp_path):
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "x.txt").write_text("same")
    one, two = (FileCorpus(files=f"{tmp_path}/{folder}/*") for folder in ("one", "two"))
    assert one.fingerprint() == two.fingerprint()
    prints = {one.fingerprint()}
    prints.add(FileCorpus(files=f"{tmp_path}/one/*", format="documents").fingerprint())
    prints.add(FileCorpus(files=f"{tmp_path}/one/*", format="jsonl").fingerprint())
    prints.add(FileCorpus(files=f"{tmp_path}/one/*", format="jsonl", text_key="b").fingerprint())
    (tmp_path / "one" / "x.txt").write_text("sAme")
    prints.add(one.fingerprint())
    (tmp_path / "one" / "y.txt").write_text("")
    prints.add(one.fingerprint())
    assert len(prints) == 6


def test_big_corpora_are_identified_by_size_and_time(tmp_path, monkeypatch):
    monkeypatch.setattr(documents, "MAX_HASHED_BYTES", 3)
    path = tmp_path / "x.txt"
    path.write_text("same size")
    corpus = FileCorpus(files=str(path))
    before = corpus.fingerprint()
    assert corpus.fingerprint() == before
    path.write_text("sAme size")
    assert corpus.fingerprint() != before


def test_validation_split_is_a_fixed_share_by_text():
    texts = [f"document number {i}" for i in range(20_000)]
    held_out = [t for t in texts if documents.split_of(t, 0.02) == "validation"]
    # Binomial(20000, .02): 400 +- 4 * 20.
    assert 320 < len(held_out) < 480
    assert all(documents.split_of(t, 0.05) == "validation" for t in held_out)  # nested
    assert not any(documents.split_of(t, 0.0) == "validation" for t in texts[:1000])
    # Fixed for ever: data prepared on another day or machine agrees.
    assert held_out[:2] == ["document number 144", "document number 159"]


def test_a_remote_text_is_fetched_again_only_when_it_changed(monkeypatch):
    name, opened, open_raw = "memory://hashed/a.txt", [], files._open_raw
    monkeypatch.setattr(files, "_open_raw", lambda file: opened.append(file) or open_raw(file))
    for text in (b"one", b"two"):
        fsspec.filesystem("memory").pipe_file("/hashed/a.txt", text)
        for _ in range(2):
            assert files.sha256(name) == hashlib.sha256(text).digest()
    assert opened == [name] * 2


def test_a_text_is_hashed_again_only_when_it_changed(tmp_path, monkeypatch):
    path, opened = tmp_path / "a.txt", []
    open_raw = files._open_raw
    monkeypatch.setattr(files, "_open_raw", lambda file: opened.append(file) or open_raw(file))

    def digest(text: str, secs: float) -> str:
        path.write_text(text)
        os.utime(path, (secs, secs))
        return files.sha256(str(path)).hex()

    long_ago, now = time.time() - 1000, time.time() + 1000
    first = digest("one", long_ago)
    assert files.sha256(str(path)).hex() == first == hashlib.sha256(b"one").hexdigest()
    assert len(opened) == 1
    changed = path.stat().st_ctime_ns
    while path.stat().st_ctime_ns == changed:  # a step of the file system's clock
        found = digest("six", long_ago)  # in place, and its time put back
    assert found == hashlib.sha256(b"six").hexdigest()
    assert digest("two", long_ago + 1) == hashlib.sha256(b"two").hexdigest()
    other = tmp_path / "b.txt"
    other.write_text("six")
    os.utime(other, (long_ago + 1, long_ago + 1))
    other.replace(path)  # of the same size and time, but another file
    assert files.sha256(str(path)) == hashlib.sha256(b"six").digest()
    # Changed within a step of the file system's clock: size and time say nothing yet.
    assert digest("one", now) == first
    assert digest("two", now) == hashlib.sha256(b"two").hexdigest()
