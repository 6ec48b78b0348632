"""What prepared data was made from, in a form that is compared in milliseconds and without
TensorFlow: so that a run notices that its task, vocabulary or text is not what was prepared.

    modules     the files of TASK_MODULES and of the project's own modules that they import
    variables   the environment variables that those files name; paths by what is there
    sources     the files that tasks and vocabularies read, by size and time, and by content up to
                the size to which `prepare` tells them by it

A stamp only says where to look closer: `prepare` decides by fingerprints whether anything is to be
done. What cannot be found (the text, on a machine that has only a copy of the data folder) is not
taken for a change.
"""

from __future__ import annotations

import ast
import glob
import hashlib
import math
import os
import re
import sys
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from typing import Any

from ul2tune.data import files
from ul2tune.data.documents import MAX_HASHED_BYTES
from ul2tune.status_line import StatusLine

# The vocabulary of the shipped tasks; it has a default, so that not being set means something too.
VOCABULARY, DEFAULT_VOCABULARY = "UL2TUNE_VOCABULARY", "stdlib"
# This one is trained on the text that this variable names.
TRAINED, TEXT = "trained", "UL2TUNE_TEXT"
_VARIABLE = re.compile(r"[A-Z][A-Z0-9_]+")
# Stands before the digests of a variable that names a folder.
_FOLDER = "folder"
# What is local and not larger is read whole (30 ms): a copy has another time.
_READ_BYTES = 32 * 2**20
# Of larger sources with other times so many bytes are read in one comparison (1 to 2 s).
_READ_BYTES_IN_ALL = MAX_HASHED_BYTES
# What keeps a source from being read here.
_UNSEEN = (OSError, ValueError, ImportError)

Stamp = Mapping[str, Any]
# A thing has one or several digests, in a stamp one string of words. It is the same as long as one
# of them is: another machine, Python or version of this package may give others.
Digests = list[str]
_File = tuple[str, int, str]  # its path, and what `files.stamp` says of it


def make(modules: Sequence[str], sources: Iterable[str]) -> Stamp:
    """The stamp of today, as JSON.

    Args:
      modules: names, as in TASK_MODULES.
      sources: paths of files and folders, and globs.
    """
    code, digests, status = _module_files(modules), {}, StatusLine()
    named = sorted(set(sources))
    for source in named:
        if status.is_due():
            status.put(f"{len(digests):,} of {len(named):,} sources of text are hashed")
        digests[source] = _source_digests(source)
    status.end()
    return {
        "modules": {name: _stored(_code_digests(text)) for name, text in code.items()},
        "variables": {
            name: _stored(_value_digests(value))
            for name, value in _variables(code.values()).items()
        },
        "sources": {source: _stored(found) for source, found in digests.items() if found},
    }


def differences(stamp: Stamp, modules: Sequence[str]) -> list[str]:
    """What has changed since data was prepared, in words; empty if nothing is known to have.

    Args:
      stamp: of the prepared data.
      modules: TASK_MODULES of today.
    """
    code = _module_files(modules)
    changed = [
        f"module {name}"
        for name, was in stamp["modules"].items()
        if name in code and not _agree(_read(was), _code_digests(code[name]))
    ]
    changed += [f"file {source}" for source in _changed_sources(stamp["sources"])]
    were = {name: _read(was) for name, was in stamp["variables"].items()}
    now = _variables(code.values())
    changed += [
        f"environment variable {name}"
        for name in sorted(were.keys() | now.keys())
        if _variable_changed(name, were.get(name, []), now.get(name))
    ]
    return changed


def missing_modules(stamp: Stamp, modules: Sequence[str]) -> list[str]:
    """Those of TASK_MODULES that are neither in a stamp nor found on this machine: misspelt."""
    return [name for name in modules if name not in stamp["modules"] and _spec(name) is None]


def _stored(digests: Digests) -> str:
    return " ".join(digests)


def _read(stored: str) -> Digests:
    return stored.split()


def _agree(was: Digests, now: Digests) -> bool:
    return not set(was).isdisjoint(now)


def _variable_changed(name: str, was: Digests, now: str | None) -> bool:
    if now is None:
        # The folder of a collection is needed while it is prepared, not later. And where today's
        # variables lack the vocabulary, no module of today reads it.
        return name != VOCABULARY and _FOLDER not in was
    if _sha256(now.encode()) in was:  # what it names, perhaps a big folder, need not be looked at
        return False
    return not _agree([word for word in was if word != _FOLDER], _value_digests(now))


def _code_digests(code: bytes) -> Digests:
    """Of the file, and of what it says without comments and layout. Another Python may spell the
    second one differently; the first is the same for all."""
    digests = [_sha256(code)]
    with suppress(SyntaxError, ValueError, RecursionError):  # no Python, too long an expression
        digests.append(_sha256(ast.dump(ast.parse(code)).encode()))
    return digests


def _module_files(modules: Sequence[str]) -> dict[str, bytes]:
    """Source code of modules and of what they import, by name. Nothing is imported.

    Installed packages, this one among them, are left out.
    """
    found: dict[str, bytes] = {}
    waiting = list(modules)
    while waiting:
        name = waiting.pop()
        if name in found or name.split(".")[0] in {*sys.stdlib_module_names, "ul2tune"}:
            continue
        waiting += [name.rpartition(".")[0]] if "." in name else []
        path = _find(name)
        if path is not None:
            found[name] = path.read_bytes()
            waiting += _imports(found[name], name, is_package=path.name == "__init__.py")
    return dict(sorted(found.items()))


def _spec(module: str) -> ModuleSpec | None:
    """Where Python would find a module; as `prepare` does, from the working directory first."""
    path = sys.path if os.getcwd() in sys.path else [os.getcwd(), *sys.path]
    spec, parts = None, module.split(".")
    for i in range(len(parts)):
        spec = PathFinder.find_spec(".".join(parts[: i + 1]), path)
        if spec is None:
            return None
        path = spec.submodule_search_locations or []
    return spec


def _find(module: str) -> Path | None:
    """The file of a module of the project."""
    spec = _spec(module)
    if spec is None or not (spec.origin or "").endswith(".py"):
        return None
    installed = {"site-packages", "dist-packages"} & set(Path(spec.origin or "").parts)
    return None if installed else Path(spec.origin or "")


def _imports(code: bytes, module: str, is_package: bool) -> Iterator[str]:
    """Names that may be modules, in the order of the import statements."""
    for node in ast.walk(_parse(code)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            up = node.level - is_package
            outer = module.split(".")[: -up or None] if node.level else []
            base = ".".join([*outer, *filter(None, [node.module])])
            yield from (base, *(f"{base}.{alias.name}" for alias in node.names))


def _variables(sources: Collection[bytes]) -> dict[str, str]:
    """Values of the environment variables whose names are string constants of the code."""
    names = {
        node.value
        for code in sources
        for node in ast.walk(_parse(code))
        if isinstance(node, ast.Constant)
        and isinstance(node.value, str)
        and _VARIABLE.fullmatch(node.value)
    }
    reads_vocabulary = any(_reads_vocabulary(code) for code in sources)
    if reads_vocabulary and os.environ.get(VOCABULARY) == TRAINED:
        names.add(TEXT)
    values = {name: os.environ[name] for name in sorted(names) if os.environ.get(name)}
    if reads_vocabulary:
        values[VOCABULARY] = os.environ.get(VOCABULARY) or DEFAULT_VOCABULARY
    return values


def _value_digests(value: str) -> Digests:
    """Of a variable's value and, if it names files, of what is in them: they may lie elsewhere on
    another machine. The names within, without the way there; sizes of large ones."""
    folder = os.path.expanduser(value)
    is_folder = os.path.isdir(folder)
    digests = [_FOLDER] * is_folder + [_sha256(value.encode())]
    try:
        pattern = os.path.join(glob.escape(folder), "**") if is_folder else folder
        found = files.expand(pattern) if "://" not in value else []
        sizes = [os.path.getsize(file) for file in found]
        read = sum(sizes) <= _READ_BYTES
        # A single file may have another name elsewhere.
        alone = not is_folder and len(found) == 1
        start = folder if is_folder else os.path.commonpath(map(os.path.dirname, found))
        inside = [
            ("" if alone else os.path.relpath(file, start), files.sha256(file) if read else size)
            for file, size in zip(found, sizes, strict=True)
        ]
    except (OSError, ValueError):
        return digests  # no files
    return [*digests, _sha256(repr(inside).encode())] if inside else digests


def _reads_vocabulary(code: bytes) -> bool:
    """Itself, or by `ul2tune.prepare.environment`."""
    for node in ast.walk(_parse(code)):
        if isinstance(node, ast.Import | ast.ImportFrom):
            module = getattr(node, "module", None) or ""
            names = [module, *(alias.name for alias in node.names)]
            if any("environment" in name.split(".") for name in names):
                return True
        elif isinstance(node, ast.Constant) and node.value == VOCABULARY:
            return True
    return False


def _parse(code: bytes) -> ast.AST:
    try:
        return ast.parse(code)
    except (SyntaxError, ValueError):
        return ast.Module(body=[], type_ignores=[])  # importing it will say more


def _source_digests(source: str) -> Digests:
    """Of a source's files: of their names, sizes and times and, if they are not too large, of their
    names and contents; none if there are no files, or none can be seen from here."""
    try:
        found = _found(source)
        if not found:
            return []
        is_read = _num_local_bytes(found) <= MAX_HASHED_BYTES
        return [_times(found), _contents(found)] if is_read else [_times(found)]
    except _UNSEEN:
        return []


def _changed_sources(sources: Mapping[str, str]) -> Iterator[str]:
    """Contents are read only where times differ: a mixture may have hundreds of sources."""
    bytes_left = _READ_BYTES_IN_ALL
    for source, stored in sources.items():
        with suppress(*_UNSEEN):
            found, was = _found(source), _read(stored)
            if not found or _times(found) in was:
                continue
            num_bytes = _num_local_bytes(found)
            if num_bytes <= _READ_BYTES or (len(was) > 1 and num_bytes <= bytes_left):
                bytes_left -= num_bytes if num_bytes > _READ_BYTES else 0
                if _contents(found) in was:
                    continue
            yield source


def _found(source: str) -> list[_File]:
    """A source's files."""
    folder = os.path.expanduser(source)
    if "://" not in source and os.path.isdir(folder):
        found = sorted(str(path) for path in Path(folder).rglob("*") if path.is_file())
    else:
        found = files.expand(source)
    return [(file, *files.stamp(file)) for file in found]


def _num_local_bytes(found: list[_File]) -> float:
    """How much there is to read; infinitely much if it is not on this machine."""
    is_local = not any("://" in file for file, _, _ in found)
    return sum(size for _, size, _ in found) if is_local else math.inf


def _times(found: list[_File]) -> str:
    return _sha256(repr(found).encode())


def _contents(found: list[_File]) -> str:
    return _sha256(repr([(file, files.sha256(file)) for file, _, _ in found]).encode())


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:16]
