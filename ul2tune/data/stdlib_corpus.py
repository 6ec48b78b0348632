"""The embedded corpus: the English prose that ships with every Python.

Two sources, both read as *text* from the running interpreter's own files, never imported: the
language reference in `pydoc_data/topics.py`, and every docstring of the standard library, found by
`ast`. About 2 MB: real language (and code, tables, option lists), no download, no licence question.
The order is that of the sorted file names, so it is the same on every machine with the same Python;
another Python version gives a slightly different corpus and another fingerprint.

    >>> docstrings = [d for d in iter_docstrings() if d.qualname == "JSONDecoder"]
    >>> docstrings[0].module, docstrings[0].kind, docstrings[0].docstring.splitlines()[0]
    ('json.decoder', 'class', 'Simple JSON <https://json.org> decoder')
"""

from __future__ import annotations

import ast
import functools
import hashlib
import sysconfig
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from ul2tune.data.documents import Document, Rejections

# Changes when the same sources would give other documents.
VERSION = 1
_SKIPPED_FOLDERS = {
    "test",
    "tests",
    "idle_test",
    "site-packages",
    "dist-packages",
    "lib-dynload",
    "__pycache__",
}
_TOPICS = Path("pydoc_data") / "topics.py"
_DEFINITIONS = (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)


class Docstring(NamedTuple):
    """One docstring and what it documents.

    Attributes:
      module: dotted module name.
      qualname: name inside the module (``"JSONDecoder.decode"``), empty for the module's own.
      kind: ``"module"``, ``"class"``, ``"function"`` or ``"method"``.
      docstring: text without the source's indentation, not empty.
      signature: of functions and methods, as written (``"(self, s, *, strict=True)"``); of classes
        their bases (``"(Exception)"``); else empty.
    """

    module: str
    qualname: str
    kind: str
    docstring: str
    signature: str


def source_files() -> list[tuple[str, Path]]:
    """(dotted module name, file) of the standard library's modules, sorted by name, tests left out.

    Raises:
      ValueError: if this Python ships no sources.
    """
    root = Path(sysconfig.get_path("stdlib"))
    found = []
    for path in root.rglob("*.py"):
        relative = path.relative_to(root)
        folders = relative.parts[:-1]
        # Folders with a hyphen or dot (`config-3.11-…`) are no packages.
        if any(f in _SKIPPED_FOLDERS or not f.isidentifier() for f in folders):
            continue
        if relative.name.startswith(("_sysconfigdata", "test_")) or relative == _TOPICS:
            continue
        parts = relative.with_suffix("").parts
        found.append((".".join(parts[:-1] if parts[-1] == "__init__" else parts), path))
    if not found:
        raise ValueError(
            f"This Python has no standard library sources in {root}; the embedded corpus needs "
            "them. Use a corpus of your own files (`register_text_task(name, files=…)`)."
        )
    return sorted(found)


def iter_docstrings() -> Iterator[Docstring]:
    """All docstrings: modules in name order, inside a module in the order of the source."""
    for module, path in source_files():
        yield from _docstrings(module, path)


_PARSER = threading.Lock()


@functools.cache
def _docstrings(module: str, path: Path) -> tuple[Docstring, ...]:
    try:
        tree = _parse(path.read_bytes())
    except (SyntaxError, ValueError):
        return ()  # deliberately broken sources that some versions carry for their own tests
    return tuple(_visit(tree, module, "", inside_class=False))


def _parse(source: bytes, attempts: int = 100) -> ast.Module:
    """``ast.parse`` that may run beside other threads.

    CPython 3.11 counts the parser's depth per process, not per thread, and fails where two overlap
    (SystemError: "AST constructor recursion depth mismatch"). SeqIO reads several splits at once,
    while TensorFlow parses the functions it compiles: the lock keeps ours apart, trying again keeps
    us apart from theirs.
    """
    for _ in range(attempts - 1):
        try:
            with _PARSER:
                return ast.parse(source)
        except SystemError:
            time.sleep(0.01)
    return ast.parse(source)


def _visit(node: ast.AST, module: str, qualname: str, inside_class: bool) -> Iterator[Docstring]:
    if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
        text = (ast.get_docstring(node) or "").strip()
        if text:
            yield Docstring(module, qualname, _kind(node, inside_class), text, _signature(node))
    is_class = isinstance(node, ast.ClassDef)
    for child in ast.iter_child_nodes(node):
        if isinstance(child, _DEFINITIONS):
            name = f"{qualname}.{child.name}" if qualname else child.name
            yield from _visit(child, module, name, inside_class=is_class)
        elif isinstance(child, ast.If | ast.Try):  # definitions made on a condition
            yield from _visit(child, module, qualname, inside_class=inside_class)


def _kind(node: ast.AST, inside_class: bool) -> str:
    if isinstance(node, ast.Module):
        return "module"
    if isinstance(node, ast.ClassDef):
        return "class"
    return "method" if inside_class else "function"


def _signature(node: ast.AST) -> str:
    if isinstance(node, ast.ClassDef):
        return f"({', '.join(map(ast.unparse, node.bases))})" if node.bases else ""
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
        return f"({ast.unparse(node.args)})" + (
            f" -> {ast.unparse(node.returns)}" if node.returns else ""
        )
    return ""


def iter_topics() -> Iterator[tuple[str, str]]:
    """(topic, text) of the language reference pages behind `help("topic")`, in name order."""
    path = Path(sysconfig.get_path("stdlib")) / _TOPICS
    if not path.is_file():  # some distributions cut it out
        return
    for node in ast.parse(path.read_bytes()).body:
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Dict):
            topics = ast.literal_eval(node.value)
            yield from ((name, topics[name].strip()) for name in sorted(topics))


@functools.cache
def documents() -> tuple[Document, ...]:
    """The corpus: topics, then for every module one document of it and its functions, and one per
    class.

    Every docstring stands below a line with the name and signature of what it documents. Documents
    with equal text appear once.
    """
    texts: dict[str, str] = {}
    for topic, text in iter_topics():
        texts.setdefault(text, f"topic {topic}")
    for module, path in source_files():
        groups: dict[str, list[str]] = {}
        for entry in _docstrings(module, path):
            owner = entry.qualname.split(".")[0] if entry.kind in ("class", "method") else ""
            name = f"{module}.{entry.qualname}" if entry.qualname else module
            groups.setdefault(owner, []).append(f"{name}{entry.signature}\n\n{entry.docstring}")
        for owner, parts in groups.items():
            name = f"{module}.{owner}" if owner else module
            texts.setdefault("\n\n\n".join(parts), name)
    return tuple(Document(name=name, text=text) for text, name in texts.items() if text)


@functools.cache
def fingerprint() -> str:
    """Changes whenever the corpus does: hash of the sources (0.2 s; nothing is parsed)."""
    digest = hashlib.sha256(str(VERSION).encode())
    topics = Path(sysconfig.get_path("stdlib")) / _TOPICS
    for module, path in [*source_files(), ("topics", topics)]:
        if path.is_file():
            digest.update(module.encode() + b"\0" + hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()[:16]


@dataclass(frozen=True, kw_only=True)
class StdlibCorpus:
    """The embedded corpus as a `Corpus`."""

    def read(
        self, rejections: Rejections, *, shard: int = 0, num_shards: int = 1
    ) -> Iterator[Document]:
        for document in documents()[shard::num_shards]:
            rejections.num_records += 1
            rejections.num_bytes += len(document.text)
            yield document

    def fingerprint(self) -> str:
        return fingerprint()

    def num_bytes(self) -> int:
        return sum(len(document.text) for document in documents())
