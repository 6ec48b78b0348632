"""The README's commands: each is a make target or a `ul2tune` command that resolves."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from tests.cli import golden_configs
from ul2tune.cli import options

ROOT = Path(__file__).resolve().parents[1]
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def commands(start: str) -> list[str]:
    """Lines of shell blocks that begin with `start`, continued lines joined."""
    found = []
    for document in DOCUMENTS:
        for block in re.findall(r"```(?:sh|bash)\n(.*?)```", document.read_text(), re.DOTALL):
            for line in block.replace("\\\n", " ").splitlines():
                command = line.partition(" #")[0].strip()
                command = re.sub(r"^(\w+=\S+ )+", "", command)
                if command.startswith(start):
                    found.append(command)
    return sorted(set(found))


def test_the_first_screen_has_the_two_commands():
    first_screen = "\n".join(DOCUMENTS[0].read_text().splitlines()[:40])
    assert "make demo" in first_screen
    assert "make test" in first_screen


@pytest.mark.parametrize("command", commands("make"))
def test_make_targets_exist(command):
    makefile = (ROOT / "Makefile").read_text()
    for word in shlex.split(command)[1:]:
        name, _, value = word.partition("=")
        pattern = rf"^{name} \?=" if value else rf"^{name}:"
        assert re.search(pattern, makefile, re.MULTILINE), word


@pytest.mark.parametrize("command", commands("ul2tune"))
def test_commands_parse_and_their_gin_files_resolve(command):
    arguments = shlex.split(command)[1:]
    if "--help" in arguments or "/model.gin" in command:  # a run's own file: it is not there yet
        return
    parsed = options.parse(arguments)
    if parsed.command in options.GIN_COMMANDS and any("gin" in word for word in arguments):
        golden_configs.resolve(arguments)


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_linked_files_exist(document):
    for target in re.findall(r"\]\(([^)#\s]+)", document.read_text()):
        if "://" not in target:
            assert (document.parent / target).exists(), target
    for target in re.findall(
        r"`((?:ul2tune|gin|tasks|tools|tests|docs)/[\w/.]+\.\w+)`", document.read_text()
    ):
        assert (ROOT / target).exists(), target
