"""gin files -> one checked, flattened configuration -> a call of the command's root functions.

    config = gin_config.load(["recipes/demo_pretrain.gin"], {"TRAIN_STEPS": "10"}, roots=[train])
    config.text                 # every value in force, defaults included: itself a gin file
    config.call(train)          # evaluates the arguments of `train` with gin and calls it

What is saved as MODEL_DIR/config.gin is the very text that gin evaluated, so running it again gives
the same run.
"""

from __future__ import annotations

import copy
import dataclasses
import math
import pprint
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gin

from ul2tune.cli import gin_check, gin_macros, project, run_files
from ul2tune.cli.gin_source import Binding, Macro, Program, Reference, Symbol, leaves

# Every command's root functions: a file may bind several commands', and each checks its own.
PREPARE = "ul2tune.prepare.run.prepare"
COMMAND_ROOTS = frozenset(
    {
        "ul2tune.cli.prepared.prepare_missing",
        PREPARE,
        "ul2tune.training.run.train",
        "ul2tune.evaluation.run.evaluate",
        "ul2tune.evaluation.infer.infer",
    }
)
_WIDTH = 88


@dataclass(frozen=True)
class Config:
    """A checked configuration.

    Attributes:
      text: the operative configuration: imports, macros, then every parameter in force.
      notes: remarks for the user (well-known macros that this command does not use).
      macros: the literal values of macros that are literals.
    """

    text: str
    notes: tuple[str, ...]
    macros: Mapping[str, Any]

    def arguments(
        self, root: Callable[..., Any], *, without: Collection[str] = ()
    ) -> dict[str, Any]:
        """The evaluated arguments of `root`: configuration dataclasses are built here, those of
        the arguments `without` are not."""
        gin.clear_config()
        gin.parse_config(self.text)
        bindings = gin.get_bindings(root, resolve_references=False)
        try:
            # A copy of one of gin's references is what it refers to, evaluated.
            return copy.deepcopy({k: v for k, v in bindings.items() if k not in without})
        except Exception as error:
            raise _plain(error) from None

    def call(self, root: Callable[..., Any], **overrides: Any) -> Any:
        """Calls `root` itself, not gin's wrapper: its errors stay as they are."""
        return root(**{**self.arguments(root), **overrides})


def load(
    files: Sequence[str],
    flags: Sequence[tuple[str, str]] = (),
    *,
    roots: Sequence[Callable[..., Any]],
    search_paths: Sequence[str] = (),
) -> Config:
    """Reads and checks gin files and `--gin.NAME=value` flags (applied after all files).

    Args:
      roots: the functions this command calls, with no argument but gin's.

    Raises:
      FileNotFoundError: for a gin file or include that is not there.
      ValueError: for everything else, with file and line: see `gin_source` and `gin_check`.
    """
    program = Program(project.gin_search_paths(tuple(search_paths)))
    if not files:
        raise ValueError(
            "No configuration: pass --gin_file=… (for example recipes/demo_pretrain.gin)."
        )
    for name in files:
        program.read_file(name)
    for name, value in flags:
        program.read_flag(name, value)
    program.bindings = gin_macros.in_order_of_force(program)
    gin_check.check_bindings(program)
    bound = {id(b.symbol.value) for b in program.bindings if b.symbol}
    missing = [root for root in roots if id(root) not in bound]
    if missing:
        raise ValueError(
            f"{', '.join(files)}: nothing binds {missing[0].__module__}.{missing[0].__name__}, "
            f"which this command calls. Include its run file (see gin/runs/) in your gin file."
        )
    own = [program.symbols[id(root)] for root in roots]
    others = [
        s for s in program.symbols.values() if s.path in COMMAND_ROOTS and id(s.value) in bound
    ]
    reachable = gin_check.reach(program, own)
    everything = gin_check.reach(_complete(program), [*own, *others])
    # A wrong value for MODEL leaves bindings unused: what is said first should be the reason.
    gin_check.check_types(everything, program.symbols)
    # A root that is no command's own: `inspect`, which takes the files and flags of a run.
    borrowed = f"{roots[-1].__module__}.{roots[-1].__name__}" not in COMMAND_ROOTS
    if not borrowed:
        _check_run_file(program, everything, roots[-1])
    well_known = run_files.well_known_macros()
    idle = gin_check.check_unused(program, everything, well_known, in_flags=borrowed)
    literal = {
        name: binding.value
        for name, binding in reachable.definitions.items()
        if not any(isinstance(leaf, (Macro, Reference)) for leaf in leaves(binding.value))
    }
    return Config(_flatten(program, reachable), _notes(program, idle, roots), literal)


def _check_run_file(program: Program, used: gin_check.Reachable, root: Callable[..., Any]) -> None:
    """Raises ValueError for a value that only other run files of the same command read, or that
    the user took out of force: a parameter set by its class no longer reads its macro."""
    for name, binding in used.definitions.items():
        if name in used.macros or not (readers := run_files.readers(name, root)):
            continue
        override = gin_check.override(program, used, name)
        if override is None:
            raise ValueError(
                f"{binding.location}: {name} is set, but no gin file in use reads it: "
                f"{' and '.join(readers)} would. Add the one you mean, or take {name} out."
            )
        if not (binding.weak or _shared(program, binding)):
            raise ValueError(gin_check.overridden(binding, override))


def _notes(
    program: Program, idle: Sequence[Binding], roots: Sequence[Callable[..., Any]]
) -> tuple[str, ...]:
    """Remarks on values without effect, but for those of the project's shared files: the user did
    not set them."""
    called = {f"{root.__module__}.{root.__name__}" for root in roots}
    remarks = [(binding, "is not used by this command.") for binding in idle]
    remarks += [
        (binding, "is for `ul2tune prepare`: run that with this file first.")
        for binding in program.bindings
        if binding.symbol and binding.symbol.path == PREPARE not in called
    ]
    return tuple(
        f"{binding.location}: {binding.name} {remark}"
        for binding, remark in remarks
        if not _shared(program, binding)
    )


def _shared(program: Program, binding: Binding) -> bool:
    """Whether it stands in one of the project's shared files: not in a flag, nor in your own."""
    file = Path(binding.location.file).resolve()
    return binding.location.line is not None and any(
        file.is_relative_to(path.resolve()) for path in program.search_paths[1:]
    )


def _complete(program: Program) -> Program:
    """The program with required values filled in: those of other commands need not be set now."""
    bindings = [
        b if b.value != gin_check.REQUIRED else dataclasses.replace(b, value=gin_check.UNSET)
        for b in program.bindings
    ]
    return Program(program.search_paths, bindings, program.symbols)


def _flatten(program: Program, used: gin_check.Reachable) -> str:
    """The operative configuration as gin text."""
    symbols = [program.symbols[key] for key in used.symbols]
    imports = _name_modules(symbols)
    lines = ["from __gin__ import dynamic_registration", *imports, ""]
    for name in sorted(used.macros):
        lines.append(f"{name} = {_format(used.definitions[name].value, '')}")
    for symbol in sorted(symbols, key=lambda symbol: symbol.selector):
        lines += _blocks(symbol, used)
    return "\n".join(lines) + "\n"


def _name_modules(symbols: Sequence[Symbol]) -> list[str]:
    """Gives every module a name of its own; returns the import lines."""
    modules = sorted({symbol.module for symbol in symbols})
    last = Counter(module.rsplit(".", 1)[-1] for module in modules)
    names, lines = {}, []
    for module in modules:
        parent, _, name = module.rpartition(".")
        names[module] = name
        if last[name] > 1:
            names[module] = module.replace(".", "_")
        renamed = f" as {names[module]}" if names[module] != name else ""
        lines.append(f"{f'from {parent} ' if parent else ''}import {name}{renamed}")
    for symbol in symbols:
        symbol.alias = names[symbol.module]
    return lines


def _blocks(symbol: Symbol, used: gin_check.Reachable) -> list[str]:
    key = id(symbol.value)
    scopes = sorted({scope for scope, k, p in used.used if k == key} | {()})
    default = gin_check.defaults(symbol.value)
    lines = []
    for scope in scopes:
        bound = {p: used.bindings[s, k, p].value for s, k, p in used.used if (s, k) == (scope, key)}
        values = dict(bound) if scope else {**default, **bound}
        body = []
        for name in sorted(values, key=lambda n: _position(symbol, n)):
            if name in bound or _is_literal(values[name]):
                body.append(f"    {name} = {_format(values[name], '    ')}")
            else:
                body.append(f"    # {name}: {_describe(values[name])} (default)")
        if any(not line.lstrip().startswith("#") for line in body):
            lines += ["", f"{'/'.join((*scope, symbol.selector))}:", *body]
    return lines


def _position(symbol: Symbol, name: str) -> tuple[int, str]:
    order = list(gin_check.signature(symbol.value).parameters)
    return (order.index(name) if name in order else len(order), name)


def _format(value: Any, indent: str) -> str:
    lines = pprint.pformat(value, width=_WIDTH, sort_dicts=False).split("\n")
    return f"\n{indent}    ".join(lines)


def _is_literal(value: Any) -> bool:
    if isinstance(value, dict):
        return all(_is_literal(k) and _is_literal(v) for k, v in value.items())
    if type(value) in (list, tuple):
        return all(_is_literal(item) for item in value)
    return (
        value is None
        or type(value) in (bool, int, str)
        or (type(value) is float and math.isfinite(value))
    )


def _describe(value: Any) -> str:
    if callable(value) and hasattr(value, "__qualname__"):
        return f"{value.__module__}.{value.__qualname__}"
    return " ".join(repr(value).split())


def _plain(error: BaseException) -> BaseException:
    """The error as it was raised, without gin's note on which configurable was being called.

    gin raises, from the error, one of a subclass that has its class's name.
    """
    kind = type(error)
    while kind.__mro__[1].__qualname__ == kind.__qualname__ and error.__context__ is not None:
        error = error.__context__
        kind = type(error)
    return error
