"""Budgets of size: a file is one concept, a function one thought."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from ul2tune.cli import options

ROOT = Path(__file__).resolve().parents[1]
FILE_LINES = 400
FUNCTION_LINES = 60
ARGUMENTS = 8
# Of a command: `run`, with all that it calls in its own file.
ENTRY_LINES = 60
# Named exemptions: module -> lines.
LONG_ENTRIES: dict[str, int] = {}
FOLDERS = ("ul2tune", "tasks", "tools", "tests")


def sources() -> Iterator[tuple[str, str]]:
    for folder in FOLDERS:
        for file in sorted((ROOT / folder).rglob("*.py")):
            yield str(file.relative_to(ROOT)), file.read_text(encoding="utf-8")


def functions(text: str) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


def test_files_are_short():
    lengths = {name: text.count("\n") for name, text in sources()}
    too_long = {n: k for n, k in lengths.items() if k > FILE_LINES}
    assert not too_long


def test_functions_are_short():
    too_long = [
        f"{name}:{node.lineno} {node.name}: {length} lines"
        for name, text in sources()
        for node in functions(text)
        if (length := _lines(node)) > FUNCTION_LINES
    ]
    assert not too_long, "\n".join(too_long)


def test_functions_take_few_arguments():
    too_many = [
        f"{name}:{node.lineno} {node.name}: {count} arguments"
        for name, text in sources()
        for node in functions(text)
        if (count := _arguments(node)) > ARGUMENTS
    ]
    assert not too_many, "\n".join(too_many)


def test_there_is_no_drawer_for_everything():
    names = {Path(name).name for name, _ in sources()}
    assert not names & {"utils.py", "util.py", "helpers.py", "misc.py", "common.py"}


@pytest.mark.parametrize("module", sorted({module for module, _ in options.COMMANDS.values()}))
def test_a_command_has_little_entry_code(module):
    length = _entry_lines(module)
    assert length <= LONG_ENTRIES.get(module, ENTRY_LINES)


def test_exemptions_are_still_needed():
    unneeded = [module for module in LONG_ENTRIES if _entry_lines(module) <= ENTRY_LINES]
    assert not unneeded


def _entry_lines(module: str) -> int:
    """Lines of `run` and of the functions of its file that it reaches."""
    text = (ROOT / f"{module.replace('.', '/')}.py").read_text(encoding="utf-8")
    own = {node.name: node for node in functions(text)}
    reached, todo = set(), ["run"]
    while todo:
        name = todo.pop()
        reached.add(name)
        names = {node.id for node in ast.walk(own[name]) if isinstance(node, ast.Name)}
        todo += [other for other in names & set(own) if other not in reached]
    return sum(_lines(own[name]) for name in reached)


def _lines(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Lines of the function without its docstring: documentation is not penalised."""
    assert node.end_lineno is not None
    total = node.end_lineno - node.lineno + 1
    first = node.body[0]
    if ast.get_docstring(node) is not None:
        assert first.end_lineno is not None
        total -= first.end_lineno - first.lineno + 1
    return total


def _arguments(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    arguments = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
    return len([a for a in arguments if a.arg not in ("self", "cls")])
