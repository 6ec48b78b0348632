"""Files by strangers: whatever is wrong with one is a sentence that names it, and nothing else."""

from __future__ import annotations

import gzip

import pytest

from ul2tune.instructions import (
    decontaminate,
    metaicl,
    options,
    patterns,
    reading,
    records,
    superni,
    superni_file,
)
from ul2tune.instructions.flan import flan2021, flan2022
from ul2tune.instructions.flan import rows as flan_rows
from ul2tune.instructions.promptsource import t0
from ul2tune.instructions.skg import config
from ul2tune.instructions.skg import records as skg_records
from ul2tune.instructions.suites import bbh, gsm8k
from ul2tune.metrics import sql_schema

HOSTILE = {
    "nested": b"[" * 100_000,
    "nested objects": b'{"a":' * 100_000,
    "no UTF-8": b"\xff\xfe{}",
    "NUL": b"\x00" * 10,
    "half a surrogate pair": b'{"id": "\\ud800"}',
    "thousands of digits": b'{"id": ' + b"9" * 10_000 + b"}",
    "cut off": b"{",
}
READERS = {
    "json": [
        reading.read_json,
        superni_file.load_task,
        patterns.load_templates,
        patterns.load_few_shot,
        options.load_formats,
        flan2021.load_clusters,
        flan2022.load_num_cases,
        flan2022.load_t0_tasks,
        sql_schema.load_schemas,
    ],
    "jsonl": [
        reading.read_json_lines,
        gsm8k.load,
        metaicl.load,
        records.read_jsonl,
        lambda path: skg_records.load("dart", path),
        decontaminate.read_texts,
    ],
    "txt": [
        t0.read_datasets,
        flan2022.load_categories,
        flan_rows.load_cot,
        config.load_run,
        bbh.load_prompt,
    ],
}


@pytest.mark.parametrize("ending", READERS)
@pytest.mark.parametrize("data", HOSTILE.values(), ids=list(HOSTILE))
def test_every_reader_names_the_file(ending, data, tmp_path):
    path = tmp_path / f"bad.{ending}"
    path.write_bytes(data)
    for read in READERS[ending]:
        with pytest.raises(ValueError, match=rf"bad\.{ending}") as caught:
            list(read(path))
        assert len(str(caught.value)) < 1000, read
    for read in READERS[ending]:
        with pytest.raises(ValueError, match=r"absent (does not exist|cannot be read)"):
            list(read(tmp_path / "absent"))


def test_lines_have_a_largest_size_compressed_or_not(tmp_path, monkeypatch):
    monkeypatch.setattr(reading, "MAX_LINE_BYTES", 1000)
    path = tmp_path / "rows.jsonl.gz"
    path.write_bytes(gzip.compress(b'{"a": 1}\n\n{"a": "' + b"x" * 2000 + b'"}'))
    rows = reading.read_json_lines(path)
    assert next(rows) == (1, {"a": 1})
    with pytest.raises(ValueError, match=r"rows\.jsonl\.gz:3: longer than 1,000 bytes"):
        next(rows)


def test_a_byte_order_mark_is_no_part_of_a_file(tmp_path):
    mark = "\ufeff".encode()
    path = tmp_path / "marked"
    path.write_bytes(mark + b'{"a": 1}\n')
    assert reading.read_text(path) == '{"a": 1}\n'
    assert reading.read_json(path) == {"a": 1}
    assert list(reading.read_json_lines(path)) == [(1, {"a": 1})]
    # In front only: within a file it is a character as any other.
    path.write_bytes(mark + b"\n" + mark + b"b")
    assert list(reading.read_lines(path)) == [(2, mark + b"b")]
    path.write_bytes(mark + b"task1_a\r\ntask2_b\r\n")
    assert superni.read_split(path) == ("task1_a", "task2_b")


@pytest.mark.parametrize("content", ['[{"a": 1},\n {"a": 2}]', '{"a": 1}\n\n{"a": 2}'])
@pytest.mark.parametrize("name", ["r.json", "r.jsonl"])
def test_rows_are_a_list_or_lines_whatever_the_name(tmp_path, name, content):
    path = tmp_path / name
    path.write_bytes(b"\xef\xbb\xbf \n" + content.encode())
    places, rows = zip(*reading.read_rows(path), strict=True)
    assert rows == ({"a": 1}, {"a": 2})
    endings = ("[0]", "[1]") if content.startswith("[") else (":2", ":4")
    assert places == tuple(f"{path}{ending}" for ending in endings)


def test_one_object_is_neither_list_nor_lines(tmp_path):
    path = tmp_path / "config.json"
    path.write_text('{\n "a": 1\n}')
    with pytest.raises(ValueError, match=r"config\.json:1: not valid JSON .* as it is no list\."):
        list(reading.read_rows(path))


def test_tables(tmp_path):
    path = tmp_path / "t.csv"
    path.write_bytes('\ufeffa,b\r\n1,"x\u2028y\nz"\r\n\r\n3,4\r\n'.encode())
    columns, rows = reading.read_table(path)
    assert columns == ("a", "b")
    assert rows == [(3, {"a": "1", "b": "x\u2028y\nz"}), (5, {"a": "3", "b": "4"})]
    path.write_text("a,b\n1\n")
    with pytest.raises(ValueError, match=r"t\.csv:2: expected 2 columns, got 1"):
        reading.read_table(path)


@pytest.mark.parametrize("name", ["../x", "/etc/passwd", "a/../../x", "", "a\0b"])
def test_a_file_names_no_file_outside_its_folder(name, tmp_path):
    with pytest.raises(ValueError, match="is no path of a file in"):
        reading.inside(tmp_path, name)
    assert reading.inside(tmp_path, "a/b", "c") == tmp_path / "a" / "b" / "c"


def test_the_fingerprint_sees_bytes_and_options(tmp_path):
    path = tmp_path / "a"
    path.write_bytes(b"1")
    first = reading.fingerprint([path], 1)
    assert reading.fingerprint([path], 2) != first
    path.write_bytes(b"2")
    assert reading.fingerprint([path], 1) != first


def test_fields():
    assert reading.string({"a": "x"}, "a", "f:1") == "x"
    assert reading.string({}, "a", "f:1", "") == ""
    with pytest.raises(ValueError, match="f:1: 'a' must be a string, got None"):
        reading.string({}, "a", "f:1")
    assert reading.strings({"a": ["b"]}, "a", "f:1") == ("b",)
    with pytest.raises(ValueError, match=r"f:1: 'a' must be a list of strings, got \[1\]"):
        reading.strings({"a": [1]}, "a", "f:1")
    assert reading.objects({"a": [{}]}, "a", "f:1") == [{}]
    with pytest.raises(ValueError, match=r"f:1: a\[1\] must be an object, got 'b'"):
        reading.objects({"a": [{}, "b"]}, "a", "f:1")
    with pytest.raises(ValueError, match="f:1: 'a' must be a list of objects, got None"):
        reading.objects({}, "a", "f:1")


@pytest.mark.parametrize("content", [b"", b" \n\n", b"\xef\xbb\xbf"])
def test_an_empty_list_of_rows_is_not_taken_for_no_lines(content, tmp_path):
    path = tmp_path / "a.json"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"a\.json:\d: not valid JSON \(Expecting value"):
        list(reading.read_rows(path))
    lines = path.rename(tmp_path / "a.jsonl")
    assert not list(reading.read_rows(lines))


def test_a_list_may_begin_after_much_white_space(tmp_path):
    path = tmp_path / "a.json"
    path.write_bytes(b" " * 9000 + b'[{"a": 1}]')
    assert list(reading.read_rows(path)) == [(f"{path}[0]", {"a": 1})]
