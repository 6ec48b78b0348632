"""Mistakes in task modules."""

from __future__ import annotations

import pytest

from ul2tune.prepare.task_modules import import_modules


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


def test_a_module_that_python_does_not_find(folder):
    (folder / "absent_tasks.py").write_text("import absent\n")
    for module in ("absent", "absent.tasks"):
        with pytest.raises(ValueError, match=rf"TASK_MODULES names '{module}'"):
            import_modules([module])


def test_what_a_module_lacks_is_named_with_file_and_line(folder):
    (folder / "absent_tasks.py").write_text("import absent\n")
    with pytest.raises(ModuleNotFoundError) as lacking:
        import_modules(["absent_tasks"])
    expected = "TASK_MODULES 'absent_tasks', absent_tasks.py:1: No module named 'absent'"
    assert str(lacking.value) == expected
    assert lacking.value.name == "absent"  # by which the command knows what to install
    # Of a module that another one imports, the line there.
    (folder / "helping.py").write_text("import os\n\nfrom ul2tune.data.vocab import Absent\n")
    (folder / "helped_tasks.py").write_text("import helping\n")
    expected = r"^TASK_MODULES 'helped_tasks', helping.py:3: cannot import name 'Absent' from 'ul2"
    with pytest.raises(ImportError, match=expected):
        import_modules(["helped_tasks"])


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ("x = 1\nregister(x)", r":2: NameError: name 'register' is not defined"),
        (
            "from ul2tune.data.documents import FileCorpus as F\nF(file='a')",
            r":2: TypeError: .* 'file'",
        ),
        ("import os\n\nos.environ['NO_SUCH']", r":3: KeyError: 'NO_SUCH'"),
        ("int('many')", r":1: ValueError: invalid literal"),
        ("import numpy as np\nnp.zeros(-1)", r":2: ValueError: negative dim"),
        ("x = (1", r":1 is not valid Python: '\(' was never closed"),
    ],
)
def test_a_mistake_in_a_module_is_named_with_its_line(folder, lines, message):
    """In one sentence: thirty lines of traceback through us and importlib say no more."""
    (folder / "wrong_tasks.py").write_text(lines + "\n")
    with pytest.raises(ValueError, match=rf"^TASK_MODULES 'wrong_tasks', wrong_tasks\.py{message}"):
        import_modules(["wrong_tasks"])


def test_our_own_sentences_stay_as_they_are(folder):
    (folder / "preset_tasks.py").write_text(
        "import ul2tune.data.ul2\nul2tune.data.ul2.preset('ul2x')\n"
    )
    with pytest.raises(ValueError, match=r"^There is no UL2 preset 'ul2x' \(did you mean 'ul2'"):
        import_modules(["preset_tasks"])
