"""What prepared data was made from: every change is seen, and nothing else is."""

from __future__ import annotations

import os
import shutil
import sys

import pytest

from ul2tune.data import stamp
from ul2tune.status_line import StatusLine


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A project of its own: task module, helpers, text; the working directory."""
    written = {
        "my_tasks.py": "import json, os, numpy\nfrom ul2tune.prepare import environment\n"
        "from helpers import clean\nimport tools.words\nos.environ.get('MY_TEXT', 'x')\n",
        "helpers/__init__.py": "from .clean import clean\n",
        "helpers/clean.py": "from . import deeper\n",
        "helpers/deeper.py": "",
        "helpers/unused.py": "",
        "tools/__init__.py": "",
        "tools/words.py": "import no_such_module\n",
        "text/a.txt": "a",
        "folder/deep/b.txt": "b",
    }
    for name, text in written.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [p for p in sys.path if p])
    for variable in ("MY_TEXT", stamp.VOCABULARY, stamp.TEXT):
        monkeypatch.delenv(variable, raising=False)
    return tmp_path


MODULES = ("my_tasks", "ul2tune.data.mixing")


def made(project):
    return stamp.make(MODULES, [f"{project}/text/*.txt", f"{project}/folder", "train"])


def test_hashing_that_takes_long_says_how_far_it_is(project, monkeypatch, capsys):
    made(project)
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(StatusLine, "is_due", lambda _: True)
    made(project)
    told = [f"{number} of 3 sources of text are hashed" for number in range(3)]
    assert capsys.readouterr().err.splitlines() == told


def test_the_modules_are_the_projects_own(project):
    assert list(made(project)["modules"]) == [
        *("helpers", "helpers.clean", "helpers.deeper"),
        *("my_tasks", "tools", "tools.words"),
    ]
    assert "helpers" not in sys.modules  # read, not imported


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("my_tasks.py", "x = 1\n", "module my_tasks"),
        ("helpers/deeper.py", "x = 1\n", "module helpers.deeper"),
        ("tools/words.py", "x = 1\n", "module tools.words"),
        ("text/a.txt", "longer", "file {project}/text/*.txt"),
        ("text/new.txt", "", "file {project}/text/*.txt"),
        ("folder/deep/new.txt", "", "file {project}/folder"),
        ("helpers/unused.py", "x = 1\n", None),
        ("helpers/clean.py", "# A comment.\nfrom . import (\n    deeper\n)\n", None),
        ("helpers/clean.py", "from . import deeper(\n", "module helpers.clean"),
        ("text/new.md", "", None),
    ],
)
def test_changed_files(project, name, text, message):
    before = made(project)
    assert stamp.differences(before, MODULES) == []
    (project / name).write_text(text)
    expected = [] if message is None else [message.format(project=project)]
    assert stamp.differences(before, MODULES) == expected


def test_a_comment_names_no_variable(project):
    (project / "my_tasks.py").write_text("x = 1\n")
    before = made(project)
    comment = f"# In any environment, {stamp.VOCABULARY} or not.\nx = 1\n"
    (project / "my_tasks.py").write_text(comment)
    assert stamp.differences(before, MODULES) == []


def test_code_too_long_to_be_taken_apart_is_a_file(project):
    (project / "my_tasks.py").write_text(f"x = {' + '.join(['1'] * 2000)}\n")
    before = made(project)
    assert stamp.differences(before, MODULES) == []
    (project / "my_tasks.py").write_text(f"x = {' + '.join(['1'] * 2001)}\n")
    assert stamp.differences(before, MODULES) == ["module my_tasks"]


def test_another_python_is_no_change(project):
    """It may spell syntax trees differently; so may the ul2tune that made the older stamps."""
    before = made(project)
    for spelling in ("{file} another", "{file}"):
        modules = {k: spelling.format(file=v.split()[0]) for k, v in before["modules"].items()}
        assert stamp.differences({**before, "modules": modules}, MODULES) == []


def test_what_is_not_here_says_nothing(project):
    before = made(project)
    for name in ("text/a.txt", "folder/deep/b.txt", "my_tasks.py"):
        (project / name).unlink()
    assert stamp.differences(before, MODULES) == []


def test_a_copy_is_no_change_though_its_time_is_another(project, monkeypatch):
    before = made(project)
    for name in ("text/a.txt", "folder/deep/b.txt"):
        os.utime(project / name, (0, 0))
    assert stamp.differences(before, MODULES) == []
    (project / "text/a.txt").write_text("c")  # of the same size
    assert stamp.differences(before, MODULES) == [f"file {project}/text/*.txt"]
    # Too large ones are not read: there the time counts.
    monkeypatch.setattr(stamp, "_READ_BYTES", 0)
    monkeypatch.setattr(stamp, "_READ_BYTES_IN_ALL", 0)
    assert len(stamp.differences(before, MODULES)) == 2


def test_a_large_source_that_was_only_touched_is_no_change(project, monkeypatch):
    """`prepare` would find that nothing is to be done."""
    monkeypatch.setattr(stamp, "_READ_BYTES", 0)
    before = made(project)
    for name in ("text/a.txt", "folder/deep/b.txt"):
        os.utime(project / name, (0, 0))
    assert stamp.differences(before, MODULES) == []
    # So much is read in one comparison: no run waits long for this.
    monkeypatch.setattr(stamp, "_READ_BYTES_IN_ALL", 1)
    assert len(stamp.differences(before, MODULES)) == 1


def test_a_source_that_prepare_tells_by_its_time_is_not_read(project, monkeypatch):
    monkeypatch.setattr(stamp, "MAX_HASHED_BYTES", 0)
    monkeypatch.setattr(stamp.files, "sha256", None)
    assert all(len(digests.split()) == 1 for digests in made(project)["sources"].values())


def test_contents_are_read_only_where_times_differ(project, monkeypatch):
    """A mixture may have hundreds of sources, and every run asks when it starts."""
    before, read = made(project), []
    sha256 = stamp.files.sha256
    monkeypatch.setattr(stamp.files, "sha256", lambda file: read.append(file) or sha256(file))
    assert stamp.differences(before, MODULES) == []
    assert read == []
    os.utime(project / "text/a.txt", (0, 0))
    assert stamp.differences(before, MODULES) == []
    assert read == [str(project / "text/a.txt")]


def test_stamps_of_times_alone_still_hold(project):
    """As older versions made them."""
    before = made(project)
    sources = {name: digests.split()[0] for name, digests in before["sources"].items()}
    assert stamp.differences({**before, "sources": sources}, MODULES) == []


def test_a_vocabulary_that_no_task_reads_is_no_change(project, monkeypatch):
    (project / "plain.py").write_text("x = 1\n")
    before = stamp.make(["plain"], [])
    monkeypatch.setenv(stamp.VOCABULARY, "bytes")
    assert stamp.differences(before, ["plain"]) == []


def test_environment_variables(project, monkeypatch):
    before = made(project)
    monkeypatch.setenv("NOT_NAMED", "x")
    monkeypatch.setenv(stamp.VOCABULARY, "stdlib")  # the default
    assert stamp.differences(before, MODULES) == []
    monkeypatch.setenv("MY_TEXT", str(project / "text"))
    monkeypatch.setenv(stamp.VOCABULARY, "bytes")
    named = ["environment variable MY_TEXT", f"environment variable {stamp.VOCABULARY}"]
    assert stamp.differences(before, MODULES) == named
    after = made(project)
    assert stamp.differences(after, MODULES) == []
    # A collection's folder need not be named again; another one is a change.
    monkeypatch.delenv("MY_TEXT")
    monkeypatch.delenv(stamp.VOCABULARY)
    assert stamp.differences(after, MODULES) == named[1:]
    monkeypatch.setenv("MY_TEXT", str(project / "folder"))
    assert stamp.differences(after, MODULES) == named


def test_what_a_variable_names_is_not_looked_at_where_its_value_is_the_same(project, monkeypatch):
    """Some folders have a million files, and every run asks when it starts."""
    monkeypatch.setenv("MY_TEXT", str(project / "folder"))
    before = made(project)
    expand = stamp.files.expand

    def looked(patterns):
        assert "folder" not in patterns or "**" not in patterns, patterns
        return expand(patterns)

    monkeypatch.setattr(stamp.files, "expand", looked)
    assert stamp.differences(before, MODULES) == []


def test_the_text_of_the_trained_vocabulary_is_a_variable_of_all_that_reads_it(
    project, monkeypatch
):
    monkeypatch.setenv(stamp.TEXT, "a.jsonl")
    before = made(project)
    monkeypatch.setenv(stamp.TEXT, "b.jsonl")
    assert stamp.differences(before, MODULES) == []
    monkeypatch.setenv(stamp.VOCABULARY, stamp.TRAINED)
    before = made(project)
    monkeypatch.setenv(stamp.TEXT, "a.jsonl")
    assert stamp.differences(before, MODULES) == [f"environment variable {stamp.TEXT}"]


@pytest.mark.parametrize(("here", "there"), [
    ("text", "elsewhere/copy"),
    ("text/a.txt", "elsewhere/copy/a.txt"),
    ("text/a.txt", "elsewhere/link"),
    ("text/*.txt", "elsewhere/copy/*.txt"),
])  # fmt: skip
def test_a_variable_may_name_the_same_files_elsewhere(project, monkeypatch, here, there):
    """Another machine keeps the vocabulary or the text in another place, or is given it relative
    to another working directory."""
    monkeypatch.setenv("MY_TEXT", str(project / here))
    before = made(project)
    shutil.copytree(project / "text", project / "elsewhere/copy")  # with other times
    (project / "elsewhere/link").symlink_to("copy/a.txt")
    for elsewhere in (str(project / there), there):
        monkeypatch.setenv("MY_TEXT", elsewhere)
        monkeypatch.chdir(project)
        assert stamp.differences(before, MODULES) == []
    (project / "elsewhere/copy/a.txt").write_text("other text")
    assert stamp.differences(before, MODULES) == ["environment variable MY_TEXT"]
    monkeypatch.setenv("MY_TEXT", str(project / "nowhere"))
    assert stamp.differences(before, MODULES) == ["environment variable MY_TEXT"]
    # Stamps of older versions hold the value's digest alone.
    variables = {n: d if n == stamp.VOCABULARY else " ".join(d.split()[:-1])
                 for n, d in before["variables"].items()}  # fmt: skip
    monkeypatch.setenv("MY_TEXT", str(project / here))
    assert stamp.differences({**before, "variables": variables}, MODULES) == []
