"""Super-NI's task files of every release -> tasks."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ul2tune.instructions import superni_file
from ul2tune.instructions.superni_file import Instance

NEW = {
    "Contributors": ["us"],
    "Categories": ["Word Analogy", "Other"],
    "Definition": ["Say the colour.", "Which colour is it?"],
    "Positive Examples": [{"input": "sky", "output": "blue", "explanation": "Look up"}],
    "Negative Examples": [{"input": "grass", "output": "red", "explanation": "It is green"}],
    "Instances": [
        {"id": f"task1-{i}", "input": f"thing {i}", "output": ["red", "pink"]} for i in range(10)
    ],
    "Instance License": ["MIT", "CC0"],
}
OLD = {
    "Definition": "Say the colour.",
    "Categories": "Word Analogy",
    "Examples": {
        "Positive Examples": [{"input": "sky", "output": ["blue"], "reason": "Look up"}],
        "Negative Examples": "-",
    },
    "Instances": [{"input": "rose", "output": "red"}, {"input": "sun", "output": "yellow"}],
}


def write(folder: Path, content, name: str = "task1_colour") -> Path:
    path = folder / f"{name}.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def test_reads_the_current_schema(tmp_path):
    task = superni_file.load_task(write(tmp_path, NEW))
    assert (task.name, task.category, task.license) == ("task1_colour", "Word Analogy", "MIT, CC0")
    assert task.definitions == ("Say the colour.", "Which colour is it?")
    assert [demo.negative for demo in task.demos] == [False, True]
    assert task.instances[0] == Instance(id="task1-0", input="thing 0", outputs=("red", "pink"))
    assert task.answer_choices is None


def test_reads_old_schemas(tmp_path):
    task = superni_file.load_task(write(tmp_path, OLD))
    assert task.definitions == ("Say the colour.",)
    assert task.demos[0].target == "blue"
    assert task.demos[0].explanation == "Look up"
    assert len(task.demos) == 1
    assert task.instances[1] == Instance(id="task1_colour-1", input="sun", outputs=("yellow",))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"Definition": None}, "'Definition' is missing"),
        ({"Definition": [" "]}, "'Definition' is missing or empty"),
        ({"Instances": []}, "'Instances' is missing or empty"),
        ({"Instances": {}}, "'Instances' must be a list of objects, got {}"),
        ({"Instances": [{"input": "a", "output": []}]}, r"Instances\[0\] has no 'output'"),
        ({"Instances": [{"input": 3, "output": "b"}]}, r"Instances\[0\]: 'input' must be"),
        ({"Instances": [{"input": "a", "output": [1]}]}, r"Instances\[0\]: 'output' must be"),
        ({"Instances": [{"id": 1, "input": "a", "output": "b"}]}, r"Instances\[0\]: 'id' must be"),
        ({"Instances": [NEW["Instances"][0]] * 2}, "'task1-0' names 2 instances"),
        ({"Positive Examples": ["x"]}, r"Positive Examples\[0\] must be an object, got 'x'"),
        ({"Negative Examples": [{"input": "a"}]}, r"Negative Examples\[0\] has no 'output'"),
        ({"Answer Choices": ["red"]}, r"'Answer Choices' must be two or .*, got \['red'\]"),
        ({"Answer Choices": ["red", "red "]}, "'Answer Choices' must be two or more different"),
        ({"Answer Choices": []}, "'Answer Choices' must be two or more different"),
        ({"Answer Choices": [1, 2]}, "'Answer Choices' must be a string or a list of strings"),
        (
            {"Answer Choices": ["Red", "blue"]},
            r"Instances\[0\]\['output'\]: none of \['red', 'pink'\] is among 'Answer Choices', "
            r"\['Red', 'blue'\], so",
        ),
    ],
)
def test_a_malformed_file_is_named_with_the_reason(tmp_path, change, message):
    path = write(tmp_path, {**NEW, **change})
    with pytest.raises(ValueError, match=message) as error:
        superni_file.load_task(path)
    assert str(error.value).startswith(str(path))


def test_broken_json_names_file_and_line(tmp_path):
    path = write(tmp_path, '{\n"Definition": [,\n}')
    with pytest.raises(ValueError, match=r"task1_colour\.json:2: not valid JSON"):
        superni_file.load_task(path)
    with pytest.raises(ValueError, match="does not exist"):
        superni_file.load_task(tmp_path / "task2.json")
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(ValueError, match="not valid UTF-8"):
        superni_file.load_task(path)
