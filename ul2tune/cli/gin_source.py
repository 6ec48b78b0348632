"""Reading gin files into statements that remember their file and line.

gin itself forgets where a binding came from and ignores what is never used. We use its parser and
its evaluator, and do everything between them here and in `gin_check`: statements are read with
their locations, checked, and flattened into one text (`gin_config`), which is both what gin
evaluates and what is saved.
"""

from __future__ import annotations

import importlib
import math
import os
import re
import tokenize
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gin import config_parser

from ul2tune.cli import extras
from ul2tune.nearest import closest, did_you_mean

# gin names the token below an error of Python's `literal_eval`.
_NO_VALUE = re.compile(r"Failed to parse token ('.*')")


@dataclass(frozen=True)
class Location:
    """Where a statement stands: a file and a line, or the command-line flag it came from."""

    file: str
    line: int | None = None

    def __str__(self) -> str:
        return self.file if self.line is None else f"{self.file}:{self.line}"


@dataclass(frozen=True)
class Reference:
    """`@scope/selector` or, evaluated, `@scope/selector()`; :func:`resolve` fills in `target`."""

    selector: str
    scopes: tuple[str, ...]
    evaluate: bool
    target: Symbol | None = None

    def __repr__(self) -> str:
        name = self.target.selector if self.target else self.selector
        return f"@{'/'.join((*self.scopes, name))}{'()' if self.evaluate else ''}"


@dataclass(frozen=True)
class Macro:
    """`%NAME`."""

    name: str

    def __repr__(self) -> str:
        return f"%{self.name}"


REQUIRED = Macro("gin.REQUIRED")


@dataclass
class Symbol:
    """A function or class that gin files configure, under the import path it was first seen at."""

    value: Callable[..., Any]
    module: str
    name: str
    alias: str = ""  # what the flattened text calls the module

    @property
    def selector(self) -> str:
        return f"{self.alias or self.module}.{self.name}"

    @property
    def path(self) -> str:
        return f"{self.module}.{self.name}"


@dataclass(frozen=True)
class Binding:
    """`scope/selector.parameter = value`, or a macro's `parameter = value` (then no symbol).

    `weak`: a macro's default or its REQUIRED, which give way to a value (see `gin_macros`).
    """

    scope: tuple[str, ...]
    symbol: Symbol | None
    parameter: str
    value: Any
    location: Location
    weak: bool = False

    @property
    def name(self) -> str:
        if self.symbol is None:
            return self.parameter
        prefix = "".join(f"{scope}/" for scope in self.scope)
        return f"{prefix}{self.symbol.name}.{self.parameter}"


class _Delegate(config_parser.ParserDelegate):
    def configurable_reference(self, scoped_configurable_name, evaluate):
        *scopes, selector = scoped_configurable_name.split("/")
        return Reference(selector, tuple(scopes), evaluate)

    def macro(self, macro_name):
        return Macro(macro_name)


@dataclass
class Program:
    """All statements of the given files and flags, in the order in which gin would apply them."""

    search_paths: Sequence[Path]
    bindings: list[Binding] = field(default_factory=list)
    symbols: dict[int, Symbol] = field(default_factory=dict)
    includes: dict[str, set[str]] = field(default_factory=dict)  # file -> all that it includes
    _imports: dict[str, dict[str, Any]] = field(default_factory=dict)  # file -> name -> module
    _reading: list[str] = field(default_factory=list)

    def read_file(self, name: str, wanted_by: Location | None = None) -> None:
        """Reads a file and what it includes.

        Raises:
          FileNotFoundError: if no search path has the file.
          ValueError: for anything wrong in it, with file and line.
        """
        path = self._find(name, wanted_by)
        shown = os.path.relpath(path) if path.is_relative_to(Path.cwd()) else str(path)
        if shown in self._reading:
            raise ValueError(f"{wanted_by}: {name} includes itself ({' -> '.join(self._reading)}).")
        for outer in self._reading:
            self.includes.setdefault(outer, set()).add(shown)
        self._imports[shown] = {}
        self._reading.append(shown)
        self._read_text(_text(path, shown), Location(shown))
        self._reading.pop()

    def read_flag(self, name: str, value: str) -> None:
        """Reads `--gin.NAME=value`. A bare word or path (`runs/a`) is taken as a string."""
        location = Location(f"--gin.{name}={value}")
        quoted = value[:1] in ("'", '"', "[", "(", "{", "@", "%")
        try:
            self._read_text(f"{name} = {value}", location)
        except ValueError:
            if quoted or not value or self._is_literal(value):
                raise
            self._read_text(f"{name} = {value!r}", location)

    @staticmethod
    def _is_literal(value: str) -> bool:
        try:
            next(config_parser.ConfigParser(f"x = {value}", _Delegate()))
        except (SyntaxError, tokenize.TokenError):
            return False
        return True

    def _find(self, name: str, wanted_by: Location | None) -> Path:
        tried = [root / name for root in ([Path()] if os.path.isabs(name) else self.search_paths)]
        for path in tried:
            if path.is_file():
                return path.resolve()
        raise FileNotFoundError(
            f"{f'{wanted_by}: ' if wanted_by else ''}gin file {name!r} is not there"
            f"{self._like(name, tried)}; looked in {', '.join(map(str, self.search_paths))}."
        )

    def _like(self, name: str, tried: Sequence[Path]) -> str:
        """`" (did you mean 'x'?)"`: a file of a similar name in the same folder, else any that the
        project or its user shares, unless the folder is the user's own."""
        folder, stem = os.path.dirname(name), Path(name).stem
        there = [path.parent for path in tried if path.parent.is_dir()]
        files = [os.path.join(folder, f.name) for path in there for f in sorted(path.glob("*.gin"))]
        shared = [
            str(f.relative_to(root))
            for root in self.search_paths[1:]
            for f in sorted(root.rglob("*.gin"))
        ]
        is_own = os.path.isabs(name) or (folder and there == [tried[0].parent])
        for known in (files, [] if is_own else shared):
            # Not by the whole path, as the folder and the ending alone would make names similar.
            by_stem = {Path(file).stem: file for file in known}
            near = stem if stem in by_stem else closest(stem, by_stem)
            if near:
                return f" (did you mean {by_stem[near]!r}?)"
        return ""

    def _read_text(self, text: str, where: Location) -> None:
        try:
            for statement in config_parser.ConfigParser(text, _Delegate()):
                self._apply(statement, Location(where.file, where.line or _line(statement, where)))
        except (SyntaxError, tokenize.TokenError) as error:  # of the parser; _import has its own
            line = _error_line(error)
            raise ValueError(
                f"{where if where.file.startswith('--') else Location(where.file, line)}: "
                f"not valid gin: {_reason(error)}"
            ) from error

    def _apply(self, statement: Any, at: Location) -> None:
        if isinstance(statement, config_parser.IncludeStatement):
            self.read_file(statement.filename, at)
        elif isinstance(statement, config_parser.ImportStatement):
            self._import(statement, at)
        elif isinstance(statement, config_parser.BlockDeclaration):
            self._resolve(statement.selector, at)
        elif isinstance(statement, config_parser.BindingStatement):
            scope = tuple(part for part in statement.scope.split("/") if part)
            value = resolve(statement.value, lambda selector: self._resolve(selector, at))
            if statement.arg_name:
                symbol = self._resolve(statement.selector, at)
                binding = Binding(scope, symbol, statement.arg_name, value, at)
            else:
                name = "/".join((*scope, statement.selector))
                binding = Binding((), None, name, value, at)
            # Python reads 1e999 as infinity, for which gin has no word.
            if any(isinstance(leaf, float) and math.isinf(leaf) for leaf in leaves(value)):
                raise ValueError(f"{at}: {binding.name} has a number that is too large.")
            self.bindings.append(binding)

    def _import(self, statement: config_parser.ImportStatement, at: Location) -> None:
        if statement.module.startswith("__gin__."):
            return  # Every file has dynamic registration here, asked for or not.
        try:
            module = importlib.import_module(statement.module)
        except ModuleNotFoundError as error:
            reason = f": no module named {error.name!r}"
            if error.name and not statement.module.startswith(error.name.split(".")[0]):
                reason += " (a dependency of it that is not installed)"
            raise ValueError(
                f"{at}: cannot import {statement.module}{reason}.{extras.remedy(error.name)}"
            ) from error
        except ImportError as error:
            raise ValueError(f"{at}: cannot import {statement.module}: {error}.") from error
        except SyntaxError as error:
            raise ValueError(
                f"{at}: cannot import {statement.module}: {error.filename}:{error.lineno} is not "
                f"valid Python: {error.msg}."
            ) from error
        name = statement.bound_name()
        if not (statement.is_from or statement.alias):  # `import a.b` binds `a`
            module = importlib.import_module(statement.module.split(".")[0])
        self._imports.setdefault(at.file, {})[name] = module

    def _resolve(self, selector: str, at: Location) -> Symbol:
        first, *rest = selector.split(".")
        scope = self._imports.get(at.file)
        if scope is None:  # The command line sees what any file imported, and plain names.
            return self._resolve_on_command_line(selector, at)
        if first not in scope:
            others = [file for file, names in self._imports.items() if first in names]
            hint = (
                f"; {others[0]} imports it, but an include does not carry imports" if others else ""
            )
            raise ValueError(
                f"{at}: {selector!r} is used, but this file does not import {first!r}"
                f"{hint or did_you_mean(first, scope)}. Add an import line to {at.file}."
            )
        return self._attribute(scope[first], rest, selector, at)

    def _resolve_on_command_line(self, selector: str, at: Location) -> Symbol:
        first, *rest = selector.split(".")
        for names in self._imports.values():
            if first in names and rest:
                return self._attribute(names[first], rest, selector, at)
        ends = [s for s in self.symbols.values() if f".{s.path}".endswith(f".{selector}")]
        if len(ends) == 1:
            return ends[0]
        known = sorted(symbol.name for symbol in self.symbols.values())
        problem = "is ambiguous" if ends else "names nothing that the gin files use"
        raise ValueError(f"{at}: {selector!r} {problem}{did_you_mean(selector, known)}.")

    def _attribute(self, root: Any, names: list[str], selector: str, at: Location) -> Symbol:
        value, module, path = root, root, []
        for name in names:
            if not hasattr(value, name):
                owner = getattr(value, "__name__", value)
                public = [item for item in dir(value) if not item.startswith("_")]
                raise ValueError(
                    f"{at}: {owner} has no attribute {name!r}{did_you_mean(name, public)}."
                )
            value = getattr(value, name)
            if isinstance(value, types.ModuleType):
                module, path = value, []
            else:
                path.append(name)
        if not callable(value) or not path:
            raise ValueError(f"{at}: {selector!r} is neither a function nor a class.")
        return self.symbols.setdefault(id(value), Symbol(value, module.__name__, ".".join(path)))


def _text(path: Path, shown: str) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{shown}: not a gin file: byte {error.start} is not UTF-8. Save it as UTF-8."
        ) from error


def _reason(error: SyntaxError | tokenize.TokenError) -> str:
    """gin's reason; a name that stands for a text shows there as an object with its address."""
    message = str(error.args[0])
    if found := _NO_VALUE.search(message):
        return f"{found[1]} is no value; text needs quotes, as in 'text' or ('text',)"
    return message.splitlines()[0]


def _error_line(error: Exception) -> int | None:
    """The line in a SyntaxError (message, (file, line, …)) or TokenError (message, (line, …))."""
    place = error.args[1] if len(error.args) > 1 else ()
    return next((item for item in place if isinstance(item, int)), None)


def _line(statement: Any, where: Location) -> int | None:
    return None if where.file.startswith("--") else statement.location.line_num


def resolve(value: Any, lookup: Callable[[str], Symbol]) -> Any:
    """Returns `value` with every reference's `target` filled in."""
    if isinstance(value, Reference):
        return Reference(value.selector, value.scopes, value.evaluate, lookup(value.selector))
    if isinstance(value, Mapping):
        return {resolve(k, lookup): resolve(v, lookup) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(resolve(item, lookup) for item in value)
    return value


def leaves(value: Any) -> Iterator[Any]:
    """The literals, macros and references inside a value."""
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield from leaves(key)
            yield from leaves(item)
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from leaves(item)
    else:
        yield value


def statements(path: Path) -> Iterator[Any]:
    """The statements of a file; nothing is imported or included."""
    return iter(config_parser.ConfigParser(path.read_text(encoding="utf-8"), _Delegate()))


def macros_in(path: Path) -> frozenset[str]:
    """The macros that a file uses or defines; nothing is imported or included."""
    names = set()
    for statement in statements(path):
        if isinstance(statement, config_parser.BindingStatement):
            names |= {leaf.name for leaf in leaves(statement.value) if isinstance(leaf, Macro)}
            names |= set() if statement.arg_name else {statement.selector}
    return frozenset(names - {REQUIRED.name})
