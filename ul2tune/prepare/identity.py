"""What determines a prepared shard's bytes, as plain JSON: the input of task fingerprints.

A preprocessor is identified by its name, its *source code* without comments and docstrings, and
what it is bound to (arguments, closure, attributes), so that editing it makes `prepare` run again.
A function it calls is not followed: change the caller, or delete the prepared folder. An object
with a method `identified_by` says what it is to be taken for.
"""

from __future__ import annotations

import ast
import dataclasses
import functools
import hashlib
import inspect
import io
import os
import textwrap
import tokenize
from collections.abc import Mapping
from typing import Any

import numpy as np
import seqio

from ul2tune.prepare.seqio_vocab import from_seqio

_MAX_DEPTH = 8
_DOCUMENTED = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)


def identity(value: Any, depth: int = 0) -> Any:
    """Reduces a value to JSON that is equal between runs exactly where the value means the same."""
    if depth > _MAX_DEPTH:
        return "…"
    if value is None or isinstance(value, bool | int | float | str):
        return value
    below = functools.partial(identity, depth=depth + 1)
    if isinstance(value, bytes):
        return hashlib.sha256(value).hexdigest()
    if isinstance(value, np.ndarray):
        return [str(value.dtype), value.shape, hashlib.sha256(value.tobytes()).hexdigest()]
    if isinstance(value, Mapping):
        return [[below(key), below(value[key])] for key in sorted(value, key=str)]
    if isinstance(value, list | tuple):
        return [below(item) for item in value]
    if isinstance(value, set | frozenset):
        return sorted(str(below(item)) for item in value)
    if inspect.isclass(value):  # first, as a class has its instances' `fingerprint` too
        return _code(value, below)
    if hasattr(value, "identified_by"):
        return identity(value.identified_by(), depth)
    if hasattr(value, "fingerprint"):
        found = value.fingerprint
        return [type(value).__name__, found() if callable(found) else found]
    if isinstance(value, seqio.Vocabulary):
        return from_seqio(value).fingerprint
    if isinstance(value, functools.partial):
        return ["partial", below(value.func), below(value.args), below(value.keywords)]
    if inspect.ismethod(value):
        return [value.__func__.__qualname__, below(value.__self__)]
    if inspect.isroutine(value):
        return _code(value, below)
    return _instance(value, below)


def source_identity(source: seqio.DataSource, split: str) -> Any:
    """What a data source reads for one split."""
    if hasattr(source, "fingerprint"):
        return [type(source).__name__, source.fingerprint()]  # type: ignore[attr-defined]
    if isinstance(source, seqio.TfdsDataSource):
        loader = source.tfds_dataset
        return ["tfds", loader.resolved_tfds_name(split), str(loader.tfds_splits)]
    files = [file for file in source.list_shards(split) if os.path.isfile(file)]
    stamps = [(file, os.stat(file).st_size, os.stat(file).st_mtime_ns) for file in files]
    attributes = {
        name: value
        for name, value in vars(source).items()
        if inspect.isfunction(value) or isinstance(value, str | int | Mapping | functools.partial)
    }
    return [type(source).__name__, identity(attributes), stamps or source.list_shards(split)]


def without_prose(source: str) -> str:
    """Source code without comments, and without docstrings that have lines of their own.

    As text: what `ast` and `tokenize` make of the same code depends on the version of Python.

    >>> without_prose('def one():\\n    "Says so."\\n    # Really.\\n    return 1  # of 1')
    'def one():\\n    return 1'
    """
    source = textwrap.dedent(source)
    try:
        tree = ast.parse(source)
    except SyntaxError:  # a lambda in the middle of a line
        return source
    written = source.split("\n")
    lines: list[str | None] = list(written)
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            row, column = token.start
            lines[row - 1] = written[row - 1][:column].rstrip() or None
    for node in ast.walk(tree):
        if isinstance(node, _DOCUMENTED) and ast.get_docstring(node) is not None:
            text, *rest = node.body
            first, last = text.lineno - 1, text.end_lineno or text.lineno
            before = written[first].encode()[: text.col_offset]
            if not before.strip() and all(other.lineno > last for other in rest):
                lines[first:last] = [None] * (last - first)
    return "\n".join(line for line in lines if line is not None)


def _code(value: Any, below: Any) -> Any:
    function = inspect.unwrap(value)
    name = f"{getattr(function, '__module__', '')}.{getattr(function, '__qualname__', function)}"
    closure = {}
    if inspect.isfunction(function):
        bound = inspect.getclosurevars(function).nonlocals
        closure = {name: below(item) for name, item in bound.items() if item is not value}
    return [name, _source(function), below(getattr(function, "__defaults__", None)), closure]


@functools.lru_cache(maxsize=4096)
def _source(function: Any) -> str:
    """Digest of its source code; the same function stands in every task of a mixture."""
    try:
        code = without_prose(inspect.getsource(function))
    except (OSError, TypeError):
        return ""  # no source: built in, or typed into an interpreter
    return hashlib.sha256(code.encode()).hexdigest()[:16]


def _instance(value: Any, below: Any) -> Any:
    name = f"{type(value).__module__}.{type(value).__qualname__}"
    if dataclasses.is_dataclass(value):
        fields = {f.name: getattr(value, f.name) for f in dataclasses.fields(value)}
        return [name, below(fields)]
    attributes = {k: v for k, v in getattr(value, "__dict__", {}).items() if k[:2] != "__"}
    return [name, below(type(value).__call__) if callable(value) else None, below(attributes)]
