"""Prompts of `infer`: what they may be written as, and which line is wrong."""

import io
import types

import pytest

from ul2tune.evaluation import prompts


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (
            b" [",
            r":3: not valid JSON by itself: .* only begins with '\['. Write one object per line\.$",
        ),
        (b'{"prompt"', r":3: not valid JSON \(.* at column \d+\)"),
        (b"[1]", ":3: expected a JSON object or string, got list. Write one object per line"),
        (b'{"text": "x"}', r":3: .* under one of 'prompt', .* has the keys \['text'\]"),
        (b'{"prompt": 5}', ":3: 'prompt' must be a string, got 5"),
        (b'{"id": 1, "inputs": null}', ":3: 'inputs' must be a string, got null"),
        (b'{"prompt": "a", "id": [1]}', r":3: 'id' must be a string or an integer, got \[1\]"),
        (b'{"prompt": "a", "id": true}', ":3: 'id' must be a string or an integer, got true"),
        (b"\xff", ":3: .*utf-8"),
    ],
)
def test_errors_name_the_line(tmp_path, line, message):
    path = tmp_path / "p.jsonl"
    path.write_bytes(b'"fine"\n\n' + line + b"\n")
    with pytest.raises(ValueError, match=message):
        list(prompts.read(str(path), "jsonl"))


@pytest.mark.parametrize("source", ["p.jsonl", "stdin"])
@pytest.mark.parametrize("first", ['{"prompt": "q", "id": 4}', '{"prompt": "r", "id": "4"}'])
def test_an_id_that_repeats(tmp_path, monkeypatch, source, first):
    lines = [first, '"named by its line"', '{"prompt": "r", "id": 3}', '{"prompt": "r"}']
    data = "\n".join(lines).encode()
    path = tmp_path / source
    path.write_bytes(data)
    monkeypatch.setattr("sys.stdin", types.SimpleNamespace(buffer=io.BytesIO(data)))
    found = prompts.read("-" if source == "stdin" else str(path), "jsonl")
    assert [next(found).id for _ in range(3)] == ["4", "2", "3"]
    with pytest.raises(ValueError, match=f"{source}:4: line 1 has the id '4' too .* unique"):
        next(found)


def test_formats(tmp_path, monkeypatch):
    path = tmp_path / "p.txt"
    path.write_text("first\n\n  second {\r\n", encoding="utf-8")
    read = list(prompts.read(str(path), "text"))
    assert [(p.line, p.id, p.text) for p in read] == [(1, "1", "first"), (3, "3", "  second {")]
    stdin = types.SimpleNamespace(buffer=io.BytesIO(b'{"inputs": "a", "id": 4}\n"b"'))
    monkeypatch.setattr("sys.stdin", stdin)
    read = list(prompts.read("-", "jsonl"))
    assert [(p.line, p.id, p.text) for p in read] == [(1, "4", "a"), (2, "2", "b")]
    with pytest.raises(ValueError, match="input_format must be"):
        list(prompts.read("a", "csv"))
    with pytest.raises(ValueError, match="does not exist"):
        list(prompts.read(str(tmp_path / "none"), "text"))


@pytest.mark.parametrize(
    ("name", "first", "expected"),
    [
        ("p.ndjson", '{"prompt": "a"}', "a"),
        ("p.jsonl", '\ufeff{"prompt": "a"}', "a"),
        ("p", '\n{"prompt": "a"}', "a"),
        ("p.txt", '{"prompt": "a"}', '{"prompt": "a"}'),
        ("p", '{"question": a}', '{"question": a}'),
        ("p", "[a", "[a"),
        ("-", '{"inputs": "a"}', "a"),
        ("-", "5", "5"),
    ],
)
def test_the_format_is_seen(tmp_path, monkeypatch, name, first, expected):
    data = f"{first}\n".encode()
    monkeypatch.setattr("sys.stdin", types.SimpleNamespace(buffer=io.BytesIO(data)))
    path = tmp_path / name
    path.write_bytes(data)
    read = list(prompts.read("-" if name == "-" else str(path)))
    assert [prompt.text for prompt in read] == [expected]


@pytest.mark.parametrize("name", ["p", "-"])
def test_an_object_without_a_prompt_is_no_text(tmp_path, monkeypatch, name):
    line = b'{"instruction": "say hi", "input": "x"}\n'
    monkeypatch.setattr("sys.stdin", types.SimpleNamespace(buffer=io.BytesIO(line)))
    path = "-" if name == "-" else str(tmp_path / name)
    (tmp_path / name).write_bytes(line)
    message = r":1: .* 'prompt', .* has the keys \['input', 'instruction'\]\. .*FORMAT = 'text'"
    with pytest.raises(ValueError, match=message):
        list(prompts.read(path))
    monkeypatch.setattr("sys.stdin", types.SimpleNamespace(buffer=io.BytesIO(line)))
    assert [p.text for p in prompts.read(path, "text")] == [line.decode().rstrip()]


@pytest.mark.parametrize("first", ["[", "{"])
def test_json_over_several_lines_is_not_answered_line_by_line(tmp_path, first):
    path = tmp_path / "p"
    path.write_text(f'{first}\n "prompt"\n')
    with pytest.raises(ValueError, match=r"p:1: .* one object per line\. .*_FORMAT = 'text'"):
        list(prompts.read(str(path)))
    assert len(list(prompts.read(str(path), "text"))) == 2
